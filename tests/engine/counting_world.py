"""A denoiser that costs nothing and whose scores are known in advance: the engine's book-keeping
can be tested on long streams."""

import torch

from mitune.diffusion.schedule import Schedule
from mitune.engine.engine import Engine
from mitune.engine.prompt_encoder import PromptEncoder
from mitune.engine.request import EngineStats
from mitune.engine.stream import pool
from mitune.worlds.networks import scheduler


def denoise(z, t, cond):
    """The prompt's number is all that conditional and unconditional prediction differ by, and the
    latent's own mean: each candidate has scores of its own."""
    return 0.1 * z * (1 + cond["p"][:, :, None, None]) + cond["p"][:, :, None, None]


def encode(texts):
    return {"p": torch.tensor([[1.0 + 0.01 * float(text)] for text in texts])}


def engine(steps, slots, *, seed=0, convention="reference"):
    schedule = Schedule.from_diffusers(scheduler(), steps)
    stats = EngineStats()
    made = Engine(
        denoise,
        schedule,
        schedule.weights(convention),
        guidance=2.0,
        seed=seed,
        null={"p": torch.zeros(1, 1)},
        latent_shape=(1, 2, 2),
        slots=slots,
        device=torch.device("cpu"),
        stats=stats,
    )
    return made, schedule.weights(convention), stats


def run(prompts, candidates, *, steps=50, slots=64, policy=None, stream=None):
    """Candidates by (prompt, index), the weights, and what it cost."""
    texts = [str(p) for p in range(prompts)]
    own, weights, stats = engine(steps, slots)
    choose = None if policy is None else (lambda prompt_index: policy)
    made = list(own.run(stream or pool(texts, candidates), PromptEncoder(encode, texts), choose))
    found = {(c.prompt_index, c.index): c for c in made}
    assert len(found) == len(made)
    return found, weights, stats
