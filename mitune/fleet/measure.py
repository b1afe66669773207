"""Measure here what a plan would otherwise assume."""

import time

from mitune.bench.flops import denoiser_flops
from mitune.config.runtime import Runtime
from mitune.config.sampling import SamplerConfig
from mitune.config.sets import GenerateConfig
from mitune.engine.request import EngineStats
from mitune.engine.stream import Ready, pool
from mitune.fleet.rates import Denoiser
from mitune.models.protocol import LatentModel
from mitune.runtime.prepared import prepare

_STEPS = 5


def denoiser_of(model: LatentModel, name: str) -> Denoiser:
    """What a pass of the model's denoiser costs, counted."""
    shape = model.latent_shape
    return Denoiser(
        name=name,
        products=denoiser_flops(model),
        convolutions=0.0,  # not told apart: only the paper's own model has to be
        latent=shape[0] * shape[1] * shape[2],
    )


def measured_rate(model: LatentModel, runtime: Runtime) -> float:
    """Passes of a row a second of generation on this device, once it is warm: two fillings of all
    slots, of a few steps each."""
    sampler = SamplerConfig(steps=_STEPS)
    config = GenerateConfig(candidates=2 * runtime.count, sampler=sampler, runtime=runtime)
    stats = EngineStats()
    ready = Ready(prepare(model, runtime), ["a red circle"], config, stats=stats)
    ready.engine.warm_up()
    start = time.perf_counter()
    for _ in ready(pool(["a red circle"], config.candidates)):
        pass
    return stats.rows / (time.perf_counter() - start)
