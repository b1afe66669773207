"""Models of the benches, and what a rung is on disk."""

import json
import math

import pytest
import torch

from mitune.bench.machine import Meter
from mitune.bench.random_model import TINY, random_model
from mitune.bench.rungs import Cost, Made, with_own_denoiser
from mitune.cli.commands.bench import Bench
from mitune.core.errors import UserError
from mitune.core.provenance import as_json

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny():
    return random_model(TINY, CPU, "float32")


def test_a_random_model_is_its_seeds_and_leaves_the_random_state_alone(tiny):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again, other = (random_model(TINY, CPU, "float32", seed) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [model.unet.conv_out.weight for model in (tiny, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert tiny.fingerprint == again.fingerprint == "tiny-random 0 cpu"  # nothing is hashed
    assert other.fingerprint != tiny.fingerprint


def test_a_model_in_another_precision_has_a_unet_of_its_own(tiny):
    other = with_own_denoiser(tiny, "bfloat16")
    assert (other.precision, other.dtype) == ("bfloat16", torch.bfloat16)
    assert other.unet.conv_in.weight.dtype == torch.bfloat16
    assert other.vae is tiny.vae
    assert tiny.unet.conv_in.weight.dtype == torch.float32
    again = with_own_denoiser(tiny, "float32")
    again.unet.conv_in.weight.data.zero_()
    assert tiny.unet.conv_in.weight.abs().sum() > 0


def test_a_rung_comes_back_from_disk_as_it_was():
    made = Made(
        scores=torch.tensor([[0.1, math.nan], [2.0, 3.0]]),
        chosen=[0, 1],
        rows=80,
        occupancy=0.75,
        cost=Cost(seconds=1.5, peak_bytes=7, meter=Meter(joules=2.0, sm_mhz=1755)),
        terms=torch.randn(2, 2, 3, 2),
    )
    back = Made.of_json(json.loads(as_json(made.as_json())))
    for name in ("scores", "terms"):
        torch.testing.assert_close(
            getattr(back, name), getattr(made, name), rtol=0, atol=0, equal_nan=True
        )
    assert (back.chosen, back.rows, back.occupancy) == (made.chosen, made.rows, made.occupancy)
    assert back.cost == made.cost
    assert back.total == 4


@pytest.mark.parametrize("name", ["fast", "cuda"])
def test_an_implementation_that_does_not_run_here_is_refused_before_anything_is_loaded(
    name, monkeypatch
):
    from mitune_kernels import dispatch

    monkeypatch.setattr(dispatch, "CUDA_RUNS_ON", "cuda")
    with pytest.raises(UserError, match=f"implementation {name!r}: impl"):
        Bench(what="generate", implementation=name, device="cpu").run()
