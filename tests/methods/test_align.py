"""Algorithm 1: rounds, resume, and the adapter in plain diffusers."""

from dataclasses import replace

import pytest
import torch
from joint_model import pipeline

import mitune
from mitune.adapters import adapter
from mitune.adapters.adapter_file import digest
from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.methods.align import align
from mitune.worlds.shapes_v1.prompts import prompts

PROMPTS = prompts("train")[:4]


def run(model, out, rounds, **changes):
    tuning = replace(model.preset.tuning, rank=4, alpha=4, batch=8, micro_batch=8, iterations=4)
    given = {
        "candidates": 4,
        "sampler": SamplerConfig(steps=4, guidance=1.0),
        "tuning": tuning,
        "slots": 8,
    }
    return align(model, PROMPTS, out, rounds=rounds, **(given | changes))


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "pytorch_lora_weights.safetensors")


def test_rounds_go_on_from_one_another(exact_model, tmp_path):
    first, second = run(exact_model, tmp_path, 2)
    assert first.set.settings["adapter"] is None
    assert second.set.settings["adapter"] == digest(first.adapter)
    # Round 2 sees other noise and another model.
    a, b = first.set.table(["score"]), second.set.table(["score"])
    assert a != b
    one, two = weights(first.adapter), weights(second.adapter)
    assert one.keys() == two.keys()
    magnitudes = [name for name in one if "magnitude" in name]
    assert magnitudes
    moved = [float((one[n] - two[n]).abs().max()) for n in magnitudes]
    assert max(moved) > 0
    # Going on, not starting over: 4 steps of AdamW move no weight by more than 4 learning rates and
    # a little decay.
    lr = exact_model.preset.tuning.lr
    assert max(float((one[n] - two[n]).abs().max()) for n in one) < 6 * lr
    assert adapter.attached(exact_model)


def test_a_finished_run_is_not_done_again(exact_model, tmp_path):
    before = weights(run(exact_model, tmp_path, 1)[0].adapter)
    adapter.detach(exact_model)
    called = []
    again = run(exact_model, tmp_path, 1, on_candidate=lambda *a: called.append(a))
    after = weights(again[0].adapter)
    assert not called
    assert all(torch.equal(before[n], after[n]) for n in before)
    # And more rounds go on from there.
    adapter.detach(exact_model)
    assert len(run(exact_model, tmp_path, 2, on_candidate=lambda *a: called.append(a))) == 2
    assert {c[0] for c in called} == {2}


def test_the_adapter_works_in_plain_diffusers(exact_model, tmp_path):
    done = run(exact_model, tmp_path, 1)
    theirs_pipeline = pipeline()
    theirs_pipeline.load_lora_weights(done[-1].adapter)
    made = theirs_pipeline(PROMPTS[0], num_inference_steps=2, output_type="np").images
    assert made.shape[-1] == 3
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, *exact_model.latent_shape, generator=generator)
    t = torch.tensor([10, 500, 950])
    cond = exact_model.encode_prompts(PROMPTS[:3])
    with torch.no_grad():
        unet = theirs_pipeline.unet.double()
        theirs = unet(z.double(), t, cond["encoder_hidden_states"]).sample
        ours = exact_model(z, t, cond)
        adapter.detach(exact_model)
        base = exact_model(z, t, cond)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert float((ours - base).abs().max()) > 1e-4


def test_two_lines(tmp_path):
    """The promise: a user gets an aligned adapter from two lines."""
    model = mitune.load("shapes-v1", device="cpu")
    done = run(model, tmp_path, 1)
    assert (done[-1].adapter / "pytorch_lora_weights.safetensors").is_file()


def test_bad_rounds(exact_model, tmp_path):
    with pytest.raises(UserError, match="rounds is 0"):
        run(exact_model, tmp_path, 0)
    assert not any(tmp_path.iterdir())
