"""All weights of the UNet trained: the control, and what stands where an adapter may."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from joint_model import TEXTS, embeddings, joint_model, pipeline, predict
from outcome import Killed, distance, furthest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_model import TinyModel, TinySet, config, refusal, tree

import mitune
from mitune.adapters import adapter
from mitune.adapters.adapter_file import FULL as WEIGHTS
from mitune.adapters.adapter_file import digest
from mitune.adapters.export.write import export_adapter
from mitune.config.sampling import SamplerConfig
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.evaluation.report import compare_models
from mitune.runtime.prepared import Prepared
from mitune.training.batches import Batches
from mitune.training.gradient import gradient_of
from mitune.training.loop import tune

FULL = f"unet/{WEIGHTS}"


def full(**changes: Any) -> TuneConfig:
    return config(**({"method": "full", "lr": 1e-3} | changes))


def run(out: Path, **changes: Any) -> Path:
    return tune(TinyModel(), TinySet(), out, full(**changes))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("runs") / "straight")


def test_the_gradient_is_that_of_the_plain_unet() -> None:
    """Of every weight, in float64, the loss written out once more."""
    model, chosen = TinyModel(), full(micro_batch=3)
    model.unet.double()
    model.dtype = torch.float64
    adapter.attach(model, chosen)
    batches, made = Batches(model, TinySet().selected(), chosen), gradient_of(model, chosen)
    made.begin()
    for samples in batches.step(0):
        made.add(samples)
    made.finish()
    got = {n: p.grad for n, p in adapter.parameters(model).items()}
    plain = TinyModel().unet.double().requires_grad_(True)
    assert got.keys() == dict(plain.named_parameters()).keys()
    (whole,) = batches.step(0, 8)
    noisy = model.scheduler.add_noise(whole.latents.double(), whole.noise.double(), whole.t)
    text = whole.cond["encoder_hidden_states"].double()
    (plain(noisy, whole.t, text).sample - whole.noise.double()).square().mean().backward()
    for name, parameter in plain.named_parameters():
        expected, found = parameter.grad, got[name]
        assert expected is not None
        assert found is not None
        error = (found - expected).norm() / expected.norm().clamp(min=1e-9)
        assert float(error) < 1e-5, name  # ours adds the noise and takes the loss in float32


def test_all_weights_move_as_adamw_moves_them(tmp_path: Path) -> None:
    run(tmp_path, lr=1e-2, eps=1e-3, iterations=1, checkpoint_every=1)
    place = tmp_path / "checkpoints" / "step-000001"
    moments, after = load_file(place / "optimizer.safetensors"), load_file(tmp_path / FULL)
    assert after.keys() == TinyModel().unet.state_dict().keys()
    for name, before in TinyModel().unet.state_dict().items():
        g = moments[f"{name}/exp_avg"].double() / (1 - 0.9)
        expected = before.double() * (1 - 1e-2 * 1e-2) - 1e-2 * g / (g.abs() + 1e-3)
        assert furthest(after[name], expected) < 1e-6, name
    assert (place / FULL).read_bytes() == (tmp_path / FULL).read_bytes()


def test_diffusers_and_mitune_read_it_and_it_comes_off(straight: Path) -> None:
    model = TinyModel()
    base, fingerprint = model.predict(), model.fingerprint
    before = {n: t.clone() for n, t in model.unet.state_dict().items()}
    notes = adapter.load(model, straight, fingerprint=fingerprint)
    assert notes["model"] == "tiny"
    tuned = model.predict()
    assert furthest(tuned, base) > 1e-3
    assert not any(p.requires_grad for p in model.unet.parameters())
    theirs = TinyModel()
    theirs.unet = UNet2DConditionModel.from_pretrained(straight, subfolder="unet").eval()
    assert torch.equal(theirs.predict(), tuned)
    prepared = Prepared(model)
    text = prepared.encode_prompts(["a", "b"])
    z = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        assert furthest(prepared(z, torch.tensor([200, 800]), text), tuned) < 1e-5
    with pytest.raises(UserError, match="already carries"):
        adapter.attach(model, config())
    adapter.detach(model)
    prepared.refresh()
    assert all(torch.equal(t, before[n]) for n, t in model.unet.state_dict().items())
    with torch.no_grad():
        text = prepared.encode_prompts(["a", "b"])
        assert furthest(prepared(z, torch.tensor([200, 800]), text), base) < 1e-5
    assert not adapter.attached(model)
    adapter.detach(model)  # without: nothing
    assert torch.equal(model.predict(), base)


def test_the_model_is_left_plain(straight: Path, tmp_path: Path) -> None:
    model = TinyModel()
    base = model.predict()
    tune(model, TinySet(), tmp_path, full())
    assert torch.equal(model.predict(), base)
    assert not any(p.requires_grad for p in model.unet.parameters())
    assert (tmp_path / FULL).read_bytes() == (straight / FULL).read_bytes()
    before = tree(tmp_path)
    tune(model, TinySet(), tmp_path, full(rank=8))  # finished, and rank says nothing
    assert tree(tmp_path) == before


def test_the_micro_batch_does_not_change_it(tmp_path: Path) -> None:
    # Some of so many weights have gradients near 0. With eps 1e-8 AdamW makes whole steps of their
    # rounding, and so two runs part by 2e-5.
    for micro_batch in (8, 3):
        run(tmp_path / str(micro_batch), micro_batch=micro_batch, eps=1e-4)
    assert distance(tmp_path / "3", tmp_path / "8", FULL) <= 1e-6


def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path, straight: Path) -> None:
    def kill(done: int, total: int, loss: float) -> None:
        if done == 4:
            raise Killed

    model = TinyModel()
    base = model.predict()
    with pytest.raises(Killed):
        tune(model, TinySet(), tmp_path, full(), progress=kill)
    assert torch.equal(model.predict(), base)
    assert not (tmp_path / FULL).exists()
    run(tmp_path)
    one, other = tree(tmp_path), tree(straight)
    for name in (FULL, "checkpoints/step-000006/optimizer.safetensors"):
        assert one[name] == other[name]


def test_it_goes_on_from_its_own_kind_alone(tmp_path: Path, straight: Path) -> None:
    out = tune(TinyModel(), TinySet(), tmp_path / "b", full(lr=1e-9), adapter=straight)
    assert distance(out, straight, FULL) < 1e-6
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert settings["adapter"] == digest(straight)
    assert settings["config"].keys().isdisjoint({"rank", "alpha", "targets"})
    tune(TinyModel(), TinySet(), tmp_path / "lora", config(iterations=1))
    for start, chosen, text in (
        (straight, config(), "method is full there and dora here"),
        (tmp_path / "lora", full(), "method is an adapter there and full here"),
    ):
        model = TinyModel()
        base = model.predict()
        message = refusal(tune, model, TinySet(), tmp_path / "new", chosen, adapter=start)
        assert text in message
        assert not (tmp_path / "new").exists()
        assert torch.equal(model.predict(), base)


def test_what_does_not_go_is_refused(tmp_path: Path, straight: Path) -> None:
    for changes in ({"backend": "inductor"}, {"text_encoder_lr": 1e-5}):
        with pytest.raises(UserError, match="method full trains the denoiser's own weights"):
            full(**changes)
    half = TinyModel()
    half.unet.bfloat16()
    half.dtype = torch.bfloat16
    assert "expected float32" in refusal(tune, half, TinySet(), tmp_path / "new", full())
    assert not (tmp_path / "new").exists()
    other = TinyModel(weights=1)
    base = other.predict()
    with pytest.raises(UserError, match="another model"):
        adapter.load(other, straight, fingerprint=other.fingerprint)
    TinyModel().unet.save_pretrained(tmp_path / "theirs" / "unet")
    with pytest.raises(UserError, match="does not say which model"):
        adapter.load(other, tmp_path / "theirs")
    small = TinyModel(weights=1)
    small.unet = UNet2DConditionModel.from_config({**small.unet.config, "norm_num_groups": 2,
        "cross_attention_dim": 6})  # fmt: skip
    with pytest.raises(UserError, match="expected \\[8, 6\\]"):
        adapter.load(small, straight)
    assert not adapter.attached(small)
    assert torch.equal(other.predict(), base)
    (straight.parent / "cut" / "unet").mkdir(parents=True)
    cut = straight.parent / "cut" / FULL
    cut.write_bytes((straight / FULL).read_bytes()[:-10])
    with pytest.raises(UserError, match="cannot be read"):
        adapter.load(other, straight.parent / "cut")
    tensors = load_file(straight / FULL)
    tensors["conv_in.bias"][0] = float("inf")
    save_file(tensors, cut, safe_open(straight / FULL, framework="pt").metadata())
    with pytest.raises(UserError, match=r"conv_in\.bias that is not finite"):
        adapter.load(TinyModel(), straight.parent / "cut")


def test_a_whole_model_uses_it(tmp_path: Path) -> None:
    """Loading, comparing and merging; the other forms of export are for adapters."""
    model = joint_model()
    text, base = embeddings(model), predict(model.unet, embeddings(model))
    out = tune(model, TinySet(), tmp_path / "run", full(lr=1e-2))
    assert torch.equal(predict(model.unet, text), base)
    loaded = mitune.load(pipeline(), adapter=out, device="cpu")
    tuned = predict(loaded.unet, text)
    assert furthest(tuned, base) > 1e-2
    sampler = SamplerConfig(steps=3, guidance=2.0, t_min=0)
    _, drawn = compare_models(model, {"tuned": out}, TEXTS, images=1, seed=0, sampler=sampler)
    assert furthest(drawn["tuned"].latents, drawn["base"].latents) > 1e-2
    assert torch.equal(predict(model.unet, text), base)
    export_adapter(model, out, tmp_path / "m", "merged")
    assert torch.equal(predict(model.unet, text), base)
    theirs: Any = StableDiffusionPipeline.from_pretrained(tmp_path / "m")
    assert torch.equal(predict(theirs.unet, text), tuned)
    assert "| method | full |" in (tmp_path / "m" / "README.md").read_text()
    for form in ("diffusers", "comfyui", "kohya"):
        with pytest.raises(UserError, match=f"an adapter for the format {form}; choose merged"):
            export_adapter(model, out, tmp_path / form, form)
        assert not (tmp_path / form).exists()


def test_the_card_says_how_it_is_used(straight: Path) -> None:
    card = (straight / "README.md").read_text()
    assert 'AutoModel.from_pretrained("path/of/this/folder", subfolder="unet")' in card
    assert "load_lora_weights" not in card
    assert "| rank |" not in card
