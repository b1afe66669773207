"""The captured tick, which only a GPU has: what it computes, and that nothing in it waits."""

import pytest
import torch

import mitune
from mitune.config.sampling import SamplerConfig
from mitune.diffusion.schedule import Schedule
from mitune.engine.engine import Engine
from mitune.engine.policies import Halving, Unpruned
from mitune.engine.prompt_encoder import PromptEncoder
from mitune.engine.stream import generate, pool
from mitune.runtime.prepared import Prepared
from mitune.worlds.shapes_v1.prompts import prompts

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
PROMPTS = prompts("train")[:3]
SHORT = SamplerConfig(steps=6, guidance=2.0)


@pytest.fixture(scope="module")
def model():
    return mitune.load("shapes-v1", device="cuda")


@pytest.mark.parametrize("backend", ["eager", "inductor"])
@pytest.mark.parametrize("policy", [None, Halving(at=((2, 3), (4, 1)))])
def test_a_captured_run_makes_what_the_plain_one_makes(model, backend, policy):
    prepared = Prepared(model, backend)
    runs = [
        {
            (c.prompt_index, c.index): c
            for c in generate(
                prepared,
                PROMPTS,
                candidates=5,
                sampler=SHORT,
                slots=4,
                policy=policy,
                cuda_graphs=captured,
            )
        }
        for captured in (False, True)
    ]
    assert runs[0].keys() == runs[1].keys()
    for key, plain in runs[0].items():
        assert runs[1][key].steps == plain.steps
        torch.testing.assert_close(runs[1][key].latent, plain.latent, rtol=1e-4, atol=1e-4)
        assert runs[1][key].score == pytest.approx(plain.score, rel=1e-4)


@pytest.mark.parametrize("captured", [False, True])
def test_nothing_waits_for_the_device_between_two_rungs(model, captured):
    prepared = Prepared(model, "inductor")
    schedule = Schedule.from_diffusers(model.scheduler, 6)
    engine = Engine(
        prepared,
        schedule,
        schedule.weights(),
        guidance=2.0,
        seed=0,
        null=prepared.encode_null(),
        latent_shape=model.latent_shape,
        slots=3,
        device=model.device,
        cuda_graphs=captured,
    )
    encoder = PromptEncoder(prepared.encode_prompts, PROMPTS)
    engine._refill(engine._entries(pool(PROMPTS, 1), encoder, lambda p: Unpruned()))
    engine._tick()  # compiles where nothing was captured; looks at the table once
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            engine._tick()
    finally:
        torch.cuda.set_sync_debug_mode("default")
