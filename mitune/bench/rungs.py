"""Run the rungs of the ladder: each generates the same candidates in a different way."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import mitune
from mitune.bench.baselines import AuthorsLoop
from mitune.bench.figures import doing
from mitune.bench.machine import Meter, metered
from mitune.bench.random_model import random_model, random_models
from mitune.config.choices import Implementation
from mitune.config.runtime import Runtime
from mitune.config.sampling import SamplerConfig
from mitune.config.sets import GenerateConfig
from mitune.engine.candidate import Candidate
from mitune.engine.policies import Policy, best
from mitune.engine.request import EngineStats, Request
from mitune.engine.stream import Ready, pool
from mitune.models.precision import PRECISIONS
from mitune.models.protocol import LatentModel, denoiser_of, with_networks
from mitune.runtime.convolutions import exact_convolutions
from mitune.runtime.prepared import Prepared
from mitune.selection.recheck import recheck
from mitune.selection.steering import choose_drafted


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The settings that all rungs share."""

    model: str = "shapes"
    prompts: Sequence[str]
    candidates: int = 50
    sampler: SamplerConfig = field(
        default_factory=lambda: SamplerConfig(steps=50, guidance=7.5, convention="reference")
    )
    """The authors' own sampler: their baseline cannot score with another."""
    slots: int = 64
    seed: int = 0
    precision: str = "bf16-mixed"
    """Precision of our rungs from ``half`` on. The baselines use float32 and bfloat16; the exact
    runs use float32."""
    device: str = "cpu"
    captures: bool = False
    """Whether ticks run in CUDA graphs, from the rung ``captured`` on."""
    implementation: Implementation = "auto"
    """Implementation of the fused step, from the rung ``fused`` on."""
    slow_prompts: int | None = None
    """Number of prompts for the baselines and for rungs that multiply in float32; their rate is
    known after a few prompts. None: all prompts."""

    @property
    def slow(self) -> "Setting":
        """The setting of the slow rungs, with ``slow_prompts`` prompts."""
        return replace(self, prompts=self.prompts[: self.slow_prompts])


@dataclass
class Cost:
    """The cost of a rung; filled in when the rung is done."""

    seconds: float = 0.0
    peak_bytes: int | None = None
    """Peak GPU memory; None on a CPU."""
    meter: Meter = field(default_factory=Meter)


@dataclass(frozen=True, kw_only=True)
class Made:
    """The results of a rung and their cost."""

    scores: Tensor
    """``[P, M]``; NaN for a pruned candidate."""
    chosen: list[int]
    """For each prompt, the finished candidate with the highest score."""
    rows: int
    """Number of rows that the denoiser computed."""
    occupancy: float
    cost: Cost
    terms: Tensor | None = None
    """``[P, M, N, 2]``, NaN for steps that a candidate did not take; only from ``run_engine``."""

    @property
    def total(self) -> int:
        """Total number of candidates."""
        return self.scores.numel()

    def as_json(self) -> dict[str, Any]:
        """Plain JSON; NaN becomes null."""
        return {
            "scores": self.scores.tolist(),
            "chosen": self.chosen,
            "rows": self.rows,
            "occupancy": self.occupancy,
            "cost": asdict(self.cost),
            "terms": None if self.terms is None else self.terms.tolist(),
        }

    @classmethod
    def of_json(cls, found: dict[str, Any]) -> "Made":
        """Read the result of :meth:`as_json`."""
        scores = [[torch.nan if x is None else x for x in row] for row in found["scores"]]
        cost, terms = dict(found["cost"]), found["terms"]
        return cls(
            scores=torch.tensor(scores),
            chosen=found["chosen"],
            rows=found["rows"],
            occupancy=found["occupancy"],
            cost=Cost(**(cost | {"meter": Meter(**cost["meter"])})),
            terms=None if terms is None else torch.tensor(_numbers(terms)),
        )


def _numbers(value: Any) -> Any:
    """Replace None by NaN in nested lists."""
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return torch.nan if value is None else value


def load_model(setting: Setting, precision: str) -> LatentModel:
    """Load the setting's model: one of ``random_models``, or what ``mitune.load`` takes."""
    if setting.model in random_models():
        return random_model(setting.model, torch.device(setting.device), precision)
    return mitune.load(setting.model, device=setting.device, precision=precision)


def with_own_denoiser(model: LatentModel, precision: str) -> LatentModel:
    """``model`` in another precision, with its own copy of the denoiser, which may get an adapter.
    The other networks are shared, and nothing is loaded again."""
    own = copy.deepcopy(denoiser_of(model)).to(PRECISIONS[precision])
    other = with_networks(model, {model.denoiser: own})
    other.precision, other.dtype = precision, PRECISIONS[precision]
    return other


def run_loop(loop: AuthorsLoop, setting: Setting) -> Made:
    """Run a baseline on all prompts, after a pool of two steps that compiles and is not timed."""
    doing(f"compiling and warming up {type(loop).__name__}")
    loop(setting.prompts[0], steps=2)
    with _measured(setting) as cost:
        pools = [loop(prompt) for prompt in setting.prompts]
    scores = torch.stack([pool.scores for pool in pools])
    return Made(
        scores=scores,
        chosen=[best(row, 1)[0] for row in scores],
        rows=2 * scores.numel() * setting.sampler.steps,
        occupancy=1.0,
        cost=cost,
    )


def run_engine(
    prepared: Prepared,
    setting: Setting,
    policy: Callable[[int], Policy] | None = None,
    implementation: Implementation | None = None,
) -> Made:
    """Run the engine on all prompts, after two ticks that compile and are not timed. The clock
    starts when the tick is recorded, as in a long run."""
    stats = EngineStats()
    ready = _ready(prepared, setting, stats, implementation=implementation)
    with _measured(setting) as cost:
        made = list(ready(pool(setting.prompts, setting.candidates), policy))
    made.sort(key=lambda c: (c.prompt_index, c.index))
    shape = len(setting.prompts), setting.candidates
    score = torch.tensor([c.score for c in made]).view(shape)
    pruned = torch.tensor([c.pruned for c in made]).view(shape)
    finished = torch.tensor([c.finished for c in made]).view(shape)
    only = torch.where(finished, score, torch.nan)
    return Made(
        scores=torch.where(pruned, torch.nan, score),
        chosen=[best(row, 1)[0] for row in only],
        rows=stats.rows,
        occupancy=stats.occupancy,
        cost=cost,
        terms=torch.stack([c.terms for c in made]).view(*shape, setting.sampler.steps, 2),
    )


def run_draft(
    cheap: Prepared, exact: Prepared, setting: Setting, policy: Policy, verify: int
) -> Made:
    """Run the engine on all prompts with ``cheap``, then with ``exact`` on the best ``verify``
    candidates of each prompt, both under ``policy``."""
    first, second = EngineStats(), EngineStats()
    draft = _ready(cheap, setting, first)
    with exact_convolutions():
        make = _ready(exact, setting, second)
    whole = pool(setting.prompts, setting.candidates)
    with _measured(setting) as cost:
        chosen = choose_drafted(draft(whole, policy), verify)
        with exact_convolutions():
            made = list(make([w for w in whole if w.index in chosen[w.prompt_index]], policy))
    scores = torch.full((len(setting.prompts), setting.candidates), torch.nan)
    for candidate in made:
        scores[candidate.prompt_index, candidate.index] = candidate.score
    steps, ticks = first.steps + second.steps, first.ticks + second.ticks
    return Made(
        scores=scores,
        chosen=[best(row, 1)[0] for row in scores],
        rows=first.rows + second.rows,
        occupancy=steps / (ticks * setting.slots),
        cost=cost,
    )


def run_settled(
    half: Prepared, exact: Prepared, setting: Setting, policy: Policy, reach: float
) -> Made:
    """Run the engine on all prompts with ``half`` under ``policy``, and recheck near ties with
    ``exact``."""
    few = replace(setting, slots=max(1, setting.slots // 4))
    first, second = EngineStats(), EngineStats()
    rough = _ready(half, setting, first)
    with exact_convolutions():
        make = _ready(exact, few, second)

    def remake(work: list[Request]) -> list[Candidate]:
        with exact_convolutions():
            return list(make(work, policy))

    with _measured(setting) as cost:
        made = list(
            recheck(
                rough(pool(setting.prompts, setting.candidates), policy),
                remake,
                candidates=setting.candidates,
                keep=1,
                reach=reach,
                block=setting.slots,
            )
        )
    scores = torch.full((len(setting.prompts), setting.candidates), torch.nan)
    finished = scores.clone()
    for candidate in made:
        scores[candidate.prompt_index, candidate.index] = candidate.score
        if candidate.finished:
            finished[candidate.prompt_index, candidate.index] = candidate.score
    seats = first.ticks * setting.slots + second.ticks * few.slots
    return Made(
        scores=scores,
        chosen=[best(row, 1)[0] for row in finished],
        rows=first.rows + second.rows,
        occupancy=(first.steps + second.steps) / seats,
        cost=cost,
    )


def _ready(
    prepared: Prepared,
    setting: Setting,
    stats: EngineStats,
    implementation: Implementation | None = None,
) -> Ready:
    """An engine that has compiled everything that it calls and, if the setting asks for it, has
    recorded its CUDA graph."""
    begin = time.perf_counter()
    doing(f"compiling and warming up, {prepared.backend}, {prepared.precision}")
    ready = Ready(
        prepared,
        setting.prompts,
        GenerateConfig(
            sampler=setting.sampler,
            seed=setting.seed,
            runtime=Runtime(
                slots=setting.slots,
                cuda_graphs=setting.captures,
                implementation=implementation or setting.implementation,
            ),
        ),
        stats=stats,
    )
    ready.engine.warm_up()
    doing(f"ready after {time.perf_counter() - begin:.1f} s; measuring")
    return ready


@contextmanager
def _measured(setting: Setting) -> Iterator[Cost]:
    """Measure the time of the block and, on a GPU, its memory and energy."""
    device, cost = torch.device(setting.device), Cost()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    with metered(device) as meter:
        start = time.perf_counter()
        yield cost
        if on_gpu:
            torch.cuda.synchronize(device)
        cost.seconds = time.perf_counter() - start
    cost.meter = meter
    if on_gpu:
        cost.peak_bytes = torch.cuda.max_memory_allocated(device)
