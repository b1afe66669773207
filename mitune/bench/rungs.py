"""The rungs of the ladder: the same candidates, made each time in another way."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import mitune
from mitune.bench import random_model
from mitune.bench.baselines import AuthorsLoop
from mitune.bench.machine import Meter, metered
from mitune.candidate import Candidate
from mitune.families.prepared import Prepared
from mitune.families.stable_diffusion import StableDiffusion
from mitune.generate import Counts, SamplerConfig, generate, pool
from mitune.generate.policies import Policy, best
from mitune.generate.settle import settled
from mitune.steering import choose_drafted


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all rungs share."""

    model: str = "shapes"
    prompts: Sequence[str]
    candidates: int = 50
    sampler: SamplerConfig = field(
        default_factory=lambda: SamplerConfig(steps=50, guidance=7.5, convention="reference")
    )
    """The authors' own: their baseline scores no other."""
    slots: int = 64
    seed: int = 0
    precision: str = "bf16-mixed"
    """Of ours from the rung ``half`` on; the baselines take float32 and bfloat16."""
    device: str = "cpu"
    captures: bool = False
    """Whether ticks are held in CUDA graphs, from the rung ``captured`` on."""

    @property
    def total(self) -> int:
        """Candidates in all."""
        return len(self.prompts) * self.candidates


@dataclass
class Cost:
    """What a rung took, filled when it is done."""

    seconds: float = 0.0
    peak_bytes: int | None = None
    """Of the GPU's memory."""
    meter: Meter = field(default_factory=Meter)


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a rung made, and what it cost."""

    scores: Tensor
    """``[P, M]``; NaN for a pruned candidate."""
    chosen: list[int]
    """Of each prompt, the finished candidate with the highest score."""
    rows: int
    """That the UNet was given."""
    occupancy: float
    cost: Cost
    terms: Tensor | None = None
    """``[P, M, N, 2]``, where every candidate took every step."""


def load_model(setting: Setting, precision: str) -> StableDiffusion:
    """The setting's model; by its own name also SD-2.1-base with random weights."""
    if setting.model == random_model.NAME:
        return random_model.random_sd21(torch.device(setting.device), precision)
    return mitune.load(setting.model, device=setting.device, precision=precision)


def run_loop(loop: AuthorsLoop, setting: Setting) -> Made:
    """A baseline over all prompts; a short pool before, which compiles."""
    loop(setting.prompts[0], steps=2)
    with _measured(setting) as cost:
        pools = [loop(prompt) for prompt in setting.prompts]
    scores = torch.stack([pool.scores for pool in pools])
    return Made(
        scores=scores,
        chosen=[best(row, 1)[0] for row in scores],
        rows=2 * setting.total * setting.sampler.steps,
        occupancy=1.0,
        cost=cost,
    )


def run_engine(
    prepared: Prepared,
    setting: Setting,
    policy: Callable[[int], Policy] | None = None,
    implementation: str = "auto",
) -> Made:
    """The engine over all prompts; a few steps of full slots before, which compiles."""
    _warm(prepared, setting, implementation)
    counts = Counts()
    with _measured(setting) as cost:
        made = _run(prepared, setting, policy=policy, counts=counts, implementation=implementation)
    made.sort(key=lambda c: (c.prompt_index, c.index))
    shape = len(setting.prompts), setting.candidates
    score = torch.tensor([c.score for c in made]).view(shape)
    pruned = torch.tensor([c.pruned for c in made]).view(shape)
    finished = torch.tensor([c.finished for c in made]).view(shape)
    only = torch.where(finished, score, torch.nan)
    return Made(
        scores=torch.where(pruned, torch.nan, score),
        chosen=[best(row, 1)[0] for row in only],
        rows=counts.rows,
        occupancy=counts.occupancy,
        cost=cost,
        terms=torch.stack([c.terms for c in made]).view(*shape, setting.sampler.steps, 2),
    )


def run_draft(
    cheap: Prepared, exact: Prepared, setting: Setting, policy: Policy, verify: int
) -> Made:
    """The engine over all prompts in ``cheap``, then over the best ``verify`` of each in
    ``exact``, both under ``policy``."""
    for prepared in (cheap, exact):
        _warm(prepared, setting)
    first, second = Counts(), Counts()
    with _measured(setting) as cost:
        drafted = _run(cheap, setting, policy=policy, counts=first)
        chosen = choose_drafted(drafted, verify)
        work = [
            w
            for w in pool(setting.prompts, setting.candidates)
            if w.index in chosen[w.prompt_index]
        ]
        made = _run(exact, setting, policy=policy, counts=second, work=work)
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
    """The engine over all prompts in ``half``, under ``policy``; near ties settled in ``exact``."""
    few = replace(setting, slots=max(1, setting.slots // 4))
    _warm(half, setting)
    _warm(exact, few)
    first, second = Counts(), Counts()
    with _measured(setting) as cost:
        made = list(
            settled(
                _stream(half, setting, policy=policy, counts=first),
                lambda work: _run(exact, few, policy=policy, counts=second, work=work),
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


def _warm(prepared: Prepared, setting: Setting, implementation: str = "auto") -> None:
    work = pool(setting.prompts, setting.candidates)[: setting.slots]
    short = replace(setting.sampler, steps=2)
    _run(prepared, setting, sampler=short, work=work, implementation=implementation)


def _run(prepared: Prepared, setting: Setting, **given: Any) -> list[Candidate]:
    return list(_stream(prepared, setting, **given))


def _stream(prepared: Prepared, setting: Setting, **given: Any) -> Iterator[Candidate]:
    common: dict[str, Any] = {"sampler": setting.sampler, "captured": setting.captures}
    return generate(
        prepared,
        setting.prompts,
        candidates=setting.candidates,
        seed=setting.seed,
        slots=setting.slots,
        **(common | given),
    )


@contextmanager
def _measured(setting: Setting) -> Iterator[Cost]:
    """Time, and on a GPU its memory and energy, of what runs inside."""
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
