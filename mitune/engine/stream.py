"""Candidates of prompts from a model: the public front of the engine."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.core.prompts import check_prompts
from mitune.diffusion.schedule import Schedule
from mitune.engine.candidate import Candidate
from mitune.engine.engine import Counts, Engine, PromptEncoder, Work
from mitune.engine.policies import Policy
from mitune.models.protocol import LatentModel
from mitune.runtime.prepared import Prepared, prepare


def pool(prompts: Sequence[str], candidates: int) -> list[Work]:
    """All work of a run in its one order: prompt by prompt, each prompt's candidates by index."""
    return [
        Work(prompt=prompt, prompt_index=p, index=c)
        for p, prompt in enumerate(prompts)
        for c in range(candidates)
    ]


def check_run(prompts: Sequence[str], candidates: int, seed: int, slots: int) -> None:
    """Raise UserError unless these make a run: at least one prompt, all of them as
    ``check_prompts`` has them, one candidate and slot, and a seed that fits a set's int64.
    """
    if not prompts:
        raise UserError("the prompt list is empty: expected at least one prompt")
    check_prompts(prompts)
    for name, value in (("candidates", candidates), ("slots", slots)):
        if value < 1:
            raise UserError(f"{name} is {value}: expected at least 1")
    if not 0 <= seed < 2**63:
        raise UserError(f"seed is {seed}: expected 0 <= seed < 2**63")


def generate(
    model: LatentModel | Prepared,
    prompts: Sequence[str],
    *,
    candidates: int = 50,
    steps: int | None = None,
    guidance: float | None = None,
    sampler: SamplerConfig | None = None,
    seed: int = 0,
    slots: int = 64,
    scored: bool = True,
    backend: str | None = None,
    attention: str | None = None,
    precision: str | None = None,
    policy: Policy | Callable[[int], Policy] | None = None,
    captured: bool = False,
    implementation: str = "auto",
    work: Iterable[Work] | None = None,
    counts: Counts | None = None,
) -> Iterator[Candidate]:
    """Generate and score candidates along their own trajectories (Wang et al., Algorithm 2).

    A candidate depends on (model, prompt, seed, index, sampler) alone: not on ``slots``, on the
    other prompts or on a policy that keeps it, beyond the rounding of a matrix product.

    Args:
        model: from ``mitune.load``; or prepared already, which keeps what was compiled for the next
            call, with the backend, attention and precision it has: others are refused.
        prompts: texts; too long ones are cut as diffusers cuts them.
        candidates: pool size M of each prompt.
        steps, guidance: denoising steps N and guidance scale, in place of the sampler's.
        sampler: steps, guidance, solver, weights of the score; the model's own preset by default.
        seed: keys all noise, 0 <= seed < 2**63.
        slots: candidates in flight, the fixed batch; changes speed and memory, not results.
        scored: False leaves scores and terms NaN, and at guidance 1 the unconditional pass, half
            of the work, out: for those who want the pictures alone.
        backend, attention: what runs the UNet: names of ``mitune.runtime.backends.BACKENDS`` and
            of ``mitune.runtime.attention.ATTENTIONS``; None: "eager" and "auto", or those of what
            is prepared.
        precision: in which it is run, in place of the model's.
        policy: who of a pool goes on, for all prompts or by prompt index; None: everybody.
        captured: hold the tick in a CUDA graph; on a GPU only.
        implementation: of the fused step: "auto" or a name of ``mitune_kernels.implementations``.
        work: a part of the run's pool to make instead of all of it.
        counts: filled with what the run cost.

    Yields:
        :class:`mitune.engine.candidate.Candidate`, score in nats, in the order of completion; one
        that a policy dropped when it was dropped.

    Raises:
        UserError: a number out of range, an unknown backend, or an empty prompt list; a prepared
            model asked to run otherwise than it was prepared.
    """
    check_run(prompts, candidates, seed, slots)
    if isinstance(model, Prepared):
        _check_prepared(model, backend=backend, attention=attention, precision=precision)
        prepared = model
        prepared.refresh()
    else:
        prepared = prepare(model, backend or "eager", attention or "auto", precision)
    sampler = sampler or prepared.model.preset.sampler
    sampler = replace(
        sampler,
        steps=sampler.steps if steps is None else steps,
        guidance=sampler.guidance if guidance is None else guidance,
    )
    ready = Ready(
        prepared,
        prompts,
        sampler=sampler,
        seed=seed,
        slots=slots,
        scored=scored,
        captured=captured,
        implementation=implementation,
        counts=counts,
    )
    yield from ready(pool(prompts, candidates) if work is None else work, policy)


class Ready:
    """An engine that waits for work: what takes long before the first candidate, above all
    recording the tick, is done.

    Args:
        prepared: with the weights that the candidates are made by.
        prompts: the run's whole list.
        sampler, seed, slots, scored, captured, implementation, counts: as of :func:`generate`.
    """

    def __init__(
        self,
        prepared: Prepared,
        prompts: Sequence[str],
        *,
        sampler: SamplerConfig,
        seed: int = 0,
        slots: int = 64,
        scored: bool = True,
        captured: bool = False,
        implementation: str = "auto",
        counts: Counts | None = None,
    ) -> None:
        model = prepared.model
        schedule = Schedule.from_diffusers(
            model.scheduler, steps=sampler.steps, kind=sampler.scheduler, eta=sampler.eta
        )
        self.engine = Engine(
            prepared,
            schedule,
            schedule.weights(sampler.convention, sampler.t_min),
            guidance=sampler.guidance,
            seed=seed,
            null=prepared.encode_null(),
            latent_shape=model.latent_shape,
            input_dtype=prepared.dtype,
            slots=slots,
            device=model.device,
            scored=scored,
            captured=captured,
            implementation=implementation,
            counts=counts,
        )
        self._encoder = PromptEncoder(prepared.encode_prompts, prompts)

    def __call__(
        self,
        work: Iterable[Work],
        policy: Policy | Callable[[int], Policy] | None = None,
    ) -> Iterator[Candidate]:
        """Make the candidates of ``work``, as :func:`generate`; once the work before is done, it
        takes more."""
        return self.engine.run(work, self._encoder, _by_prompt(policy))


def _check_prepared(prepared: Prepared, **asked: str | None) -> None:
    for name, wanted in asked.items():
        own = getattr(prepared, name)
        if wanted not in (None, own):
            raise UserError(
                f"{name} is {wanted!r} and the model was prepared with {own!r}: expected the same; "
                "leave it out, or give the model itself"
            )


def _by_prompt(
    policy: Policy | Callable[[int], Policy] | None,
) -> Callable[[int], Policy] | None:
    if policy is None or callable(policy):
        return policy
    return lambda prompt_index: policy
