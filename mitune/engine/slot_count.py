"""How many candidates are in flight."""

from dataclasses import replace

from mitune.config.runtime import AUTO, Runtime
from mitune.config.sampling import SamplerConfig
from mitune.engine.engine import Engine
from mitune.models.protocol import LatentModel
from mitune.runtime.fitting import largest
from mitune.runtime.prepared import prepare

_ON_CPU = 64
_SPARE = 8
"""One of so many slots that fit is left free, for what is decoded and encoded beside them."""


def with_slots(model: LatentModel, runtime: Runtime, sampler: SamplerConfig, most: int) -> Runtime:
    """``runtime`` with a number of slots, of which none stays idle.

    "auto" is the number that fits beside the weights, found by running ticks. They run eagerly,
    whatever the backend is, as every number would be compiled. A CPU cannot report that memory is
    short: there nothing is tried, and "auto" is 64.

    Args:
        most: candidates in all; idle slots cost as much as busy ones.

    Raises:
        UserError: not even one fits.
    """
    if runtime.slots != AUTO:
        return replace(runtime, slots=min(runtime.slots, most))
    if model.device.type == "cpu":
        return replace(runtime, slots=min(_ON_CPU, most))
    prepare(model, replace(runtime, slots=1))  # its weights take memory too
    schedule = model.schedule(sampler)
    weights, null = schedule.weights(sampler.convention, sampler.t_min), model.encode_null()

    def attempt(slots: int) -> None:
        Engine(
            model,
            schedule,
            weights,
            guidance=sampler.guidance,
            renormalise=model.renormalise,
            seed=0,
            null=null,
            latent_shape=model.latent_shape,
            slots=slots,
            device=model.device,
            implementation="reference",
        ).warm_up()

    found = largest(
        attempt,
        most,
        what="candidate",
        mend="a GPU with more, precision bfloat16, offload, or a smaller size",
    )
    return replace(runtime, slots=found - found // _SPARE)
