"""The public front of the engine: candidates of prompts from a model."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mitune.config.options import former, with_options
from mitune.config.runtime import AUTO, Runtime
from mitune.config.sets import GenerateConfig
from mitune.core.errors import UserError
from mitune.core.prompts import check_prompts
from mitune.engine.candidate import Candidate
from mitune.engine.engine import Engine
from mitune.engine.policies import Policy
from mitune.engine.prompt_encoder import PromptEncoder
from mitune.engine.request import EngineStats, Request
from mitune.engine.slot_count import with_slots
from mitune.models.protocol import LatentModel
from mitune.runtime.backends import need_fixed_shapes
from mitune.runtime.prepared import Prepared, prepare


def pool(prompts: Sequence[str], candidates: int) -> list[Request]:
    """All requests of a run in their order: prompt by prompt, each prompt's candidates by index."""
    return [
        Request(prompt=prompt, prompt_index=p, index=c)
        for p, prompt in enumerate(prompts)
        for c in range(candidates)
    ]


def whole_batches(every: list[Request], pending: set[int], slots: int) -> list[Request]:
    """The requests of ``every`` that remain: the batches of ``slots`` candidates, counted from the
    first of all, that contain a pending one.

    Without pruning, candidate j of the run is always in slot j mod slots. By whole batches each
    candidate is in the same batch as in an uninterrupted run, and even the rounding of the matrix
    products is the same. At each end of what is pending at most slots - 1 candidates are generated
    twice.
    """
    waves = {index // slots for index, each in enumerate(every) if each.prompt_index in pending}
    return [each for index, each in enumerate(every) if index // slots in waves]


def check_run(prompts: Sequence[str]) -> None:
    """Raise UserError unless there is a prompt and ``check_prompts`` accepts all of them."""
    if not prompts:
        raise UserError("the prompt list is empty: expected at least one prompt")
    check_prompts(prompts)


def generate(
    model: LatentModel | Prepared,
    prompts: Sequence[str],
    config: GenerateConfig | None = None,
    *,
    policy: Policy | Callable[[int], Policy] | None = None,
    requests: Iterable[Request] | None = None,
    stats: EngineStats | None = None,
    **options: Any,
) -> Iterator[Candidate]:
    """Generate and score candidates along their own trajectories (Wang et al., Algorithm 2).

    A candidate depends only on (model, prompt, seed, index, sampler): not on ``slots``, the other
    prompts or a policy that keeps it, except for the rounding of matrix products.

    Args:
        model: from ``mitune.load``; or already prepared, so that what was compiled serves the next
            call too. A prepared model has a backend, attention and precision; asking for others is
            an error.
        prompts: texts; prompts that are too long are cut as diffusers cuts them.
        config: how many candidates, how they are sampled, and what runs the model; None takes the
            model's preset.
        policy: which candidates of a pool go on; one policy for all prompts, or a function of the
            prompt index. None keeps all.
        requests: a part of the run's pool, to be generated instead of all of it.
        stats: filled with what the run cost.
        options: fields of ``GenerateConfig`` and its parts, which override those of ``config``:
            ``candidates=8, steps=25, backend="inductor"``.

    Yields:
        :class:`mitune.engine.candidate.Candidate`, score in nats, in the order of completion. A
        candidate that a policy drops is yielded when it is dropped.

    Raises:
        UserError: a number out of range, an unknown backend, or an empty prompt list; settings
            other than those of a prepared model.
    """
    requests = former(options, "work", requests, "requests")
    stats = former(options, "counts", stats, "stats")
    own = model.model if isinstance(model, Prepared) else model
    chosen = with_options(config or GenerateConfig.of(own.preset), options)
    check_run(prompts)
    if chosen.runtime.slots == AUTO:
        total = len(prompts) * chosen.candidates
        runtime = with_slots(own, chosen.runtime, chosen.sampler, total)
        chosen = replace(chosen, runtime=runtime)
    if isinstance(model, Prepared):
        asked = chosen.runtime if config is not None else None
        _check_prepared(model, asked, options)
        prepared = model
        prepared.refresh()
    else:
        prepared = prepare(model, chosen.runtime)
    ready = Ready(prepared, prompts, chosen, stats=stats)
    yield from ready(pool(prompts, chosen.candidates) if requests is None else requests, policy)


class Ready:
    """An engine that is ready for requests: everything that takes long before the first candidate,
    above all recording the tick, is done.

    Args:
        prepared: has the weights that make the candidates.
        prompts: the run's whole list.
        config: its sampler, seed and scored, and the runtime settings that ``prepared`` does not
            decide.
        stats: filled with what the runs cost.
    """

    def __init__(
        self,
        prepared: Prepared,
        prompts: Sequence[str],
        config: GenerateConfig,
        *,
        stats: EngineStats | None = None,
    ) -> None:
        model, sampler, runtime = prepared.model, config.sampler, config.runtime
        need_fixed_shapes(model, prepared.backend, runtime.cuda_graphs)
        schedule = model.schedule(sampler)
        weights = schedule.weights(sampler.convention, sampler.t_min)
        if config.scored and not bool(weights.any()):  # the first step of a flow has none
            raise UserError(
                f"steps is {sampler.steps}: none of them has a weight in the score; use more steps "
                "or a lower t_min"
            )
        self.engine = Engine(
            prepared,
            schedule,
            weights,
            guidance=sampler.guidance,
            renormalise=model.renormalise,
            seed=config.seed,
            null=prepared.encode_null(),
            latent_shape=model.latent_shape,
            input_dtype=prepared.dtype,
            slots=runtime.count,
            device=model.device,
            scored=config.scored,
            cuda_graphs=runtime.cuda_graphs,
            implementation=runtime.implementation,
            stats=stats,
        )
        self._encoder = PromptEncoder(prepared.encode_prompts, prompts)

    def __call__(
        self,
        requests: Iterable[Request],
        policy: Policy | Callable[[int], Policy] | None = None,
    ) -> Iterator[Candidate]:
        """Generate the candidates of ``requests``, as :func:`generate`; once they are done, it
        accepts more."""
        return self.engine.run(requests, self._encoder, _by_prompt(policy))


def _check_prepared(
    prepared: Prepared, runtime: Runtime | None, options: Mapping[str, Any]
) -> None:
    """Refuse settings that a prepared model does not have, if they were asked for explicitly."""
    for name in ("backend", "attention", "precision"):
        wanted = options.get(name) or (runtime and getattr(runtime, name))
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
