"""UNet and text encoder trained together, against diffusers and peft."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft
from joint_model import (
    TEXTS,
    embeddings,
    joint,
    joint_model,
    pipeline,
    predict,
    scramble_all,
    trained_joint,
)
from outcome import Killed, distance, furthest
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from test_processes import run as run_processes
from tiny_model import TinySet, config, tree
from torch import Tensor

import mitune
from mitune.adapters import adapter
from mitune.adapters.adapter_file import FILE
from mitune.cli.options.settings import configured
from mitune.cli.program import parse
from mitune.config.sampling import SamplerConfig
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.evaluation.report import compare_models
from mitune.models.stable_diffusion.model import StableDiffusion
from mitune.runtime.prepared import Prepared
from mitune.scoring.score import score
from mitune.training.batches import Batches
from mitune.training.gradient import PeftGradient
from mitune.training.loop import tune
from mitune.training.merged import MergedGradient

START = "text_encoder.text_model."
LAYER = "encoder.layers.1.self_attn.q_proj"


def run(out: Path, **changes: Any) -> Path:
    return tune(joint_model(), TinySet(), out, joint(**changes))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that others are compared with."""
    return run(tmp_path_factory.mktemp("runs") / "straight")


def gradients(model: StableDiffusion, way: Any, chosen: TuneConfig) -> dict[str, Tensor]:
    """Ours, of the first step."""
    batches, made = Batches(model, TinySet().selected(), chosen), way(model, chosen)
    made.begin()
    for samples in batches.step(0):
        made.add(samples)
    made.finish()
    return {n: p.grad.clone() for n, p in adapter.parameters(model).items() if p.grad is not None}


def reference(folder: Path, chosen: TuneConfig) -> dict[str, Tensor]:
    """The same step by plain diffusers and peft in float64: its pipeline reads the adapter, and
    the loss is written out once more."""
    theirs = pipeline()
    theirs.load_lora_weights(folder)
    networks = {"": theirs.unet.double(), "text_encoder.": theirs.text_encoder.double()}
    trained = {
        prefix + name.replace(".default_0", ""): parameter
        for prefix, network in networks.items()
        for name, parameter in network.requires_grad_(False).named_parameters()
        if "lora_" in name
    }
    for parameter in trained.values():
        parameter.requires_grad_(True)
    pairs, batches = TinySet().selected(), Batches(joint_model(), TinySet().selected(), chosen)
    t, dropped = batches.times(0)
    (samples,) = batches.step(0, chosen.batch)
    texts = [
        "" if gone else pairs[i][0]
        for i, gone in zip(batches.pairs(0).tolist(), dropped.tolist(), strict=True)
    ]
    assert 0 < sum(text == "" for text in texts) < len(texts)
    ids = theirs.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    hidden = theirs.text_encoder(ids.input_ids)[0]
    noise, latents = samples.noise.double(), samples.latents.double()
    noisy = theirs.scheduler.add_noise(latents, noise, t)
    predicted = theirs.unet(noisy, t, hidden).sample
    torch.nn.functional.mse_loss(predicted, noise).backward()
    return {name: p.grad for name, p in trained.items() if p.grad is not None}


@pytest.mark.parametrize("method", ["dora", "lora"])
@pytest.mark.parametrize("way", [PeftGradient, MergedGradient], ids=["peft", "merged"])
def test_the_gradient_is_that_of_diffusers_and_peft(tmp_path: Path, way: Any, method: str) -> None:
    """Of every tensor of both networks, in float64, the empty prompt among the captions."""
    chosen = joint(method=method, alpha=7, micro_batch=3)
    model = trained_joint(tmp_path, method=method, alpha=7)
    model.unet.double()
    model.text_encoder.double()
    model.dtype = torch.float64
    got, expected = gradients(model, way, chosen), reference(tmp_path, chosen)
    assert got.keys() == expected.keys()
    assert sum(name.startswith("text_encoder.") for name in got) >= 16
    for name, gradient in expected.items():
        assert gradient.norm() > 0, name
        # Ours adds the noise and takes the loss in float32.
        assert float((got[name] - gradient).norm() / gradient.norm()) < 1e-5, name


@pytest.mark.parametrize("method", ["dora", "lora"])
def test_plain_diffusers_reads_both_parts(tmp_path: Path, method: str) -> None:
    """Values and settings, DoRA's magnitudes among them, and what they make of texts."""
    model = trained_joint(tmp_path, method=method, alpha=10.0)
    ours, base = embeddings(model), embeddings(joint_model())
    assert furthest(ours, base) > 0.1
    theirs = pipeline()
    theirs.load_lora_weights(tmp_path)
    assert furthest(embeddings(theirs), ours) < 1e-6
    assert furthest(predict(theirs.unet, ours), predict(model.unet, ours)) < 1e-5
    read = {
        name.replace(".default_0", ""): value
        for name, value in theirs.text_encoder.named_parameters()
        if "lora_" in name
    }
    own = {
        name.removeprefix("text_encoder."): value
        for name, value in adapter.parameters(model).items()
        if name.startswith("text_encoder.")
    }
    assert any("magnitude" in name for name in own) == (method == "dora")
    assert read.keys() == own.keys()
    assert all(torch.equal(read[name], value) for name, value in own.items())
    theirs.unload_lora_weights()
    assert furthest(embeddings(theirs), base) < 1e-6


def saved_by_diffusers(model: StableDiffusion, folder: Path) -> Path:
    """As train_dreambooth_lora saves both networks, under the names of its transformers."""
    networks = {"unet": model.unet, "text_encoder": model.text_encoder}
    layers: dict[str, Any] = {
        f"{name}_lora_layers": convert_state_dict_to_diffusers(get_peft_model_state_dict(network))
        for name, network in networks.items()
    }
    settings: dict[str, Any] = {
        f"{name}_lora_adapter_metadata": network.peft_config["default"].to_dict()
        for name, network in networks.items()
    }
    StableDiffusionPipeline.save_lora_weights(folder, **layers, **settings)
    return folder


@pytest.mark.parametrize("method", ["dora", "lora"])
def test_what_diffusers_saves_is_read(tmp_path: Path, method: str) -> None:
    model = trained_joint(tmp_path / "ours", method=method, alpha=10.0)
    theirs = saved_by_diffusers(model, tmp_path / "theirs")
    part = "lora_magnitude_vector"
    # Of ours the names of the text encoder differ: transformers' own, and DoRA's magnitudes.
    ours = {
        k.replace(START, "text_encoder.").replace(f"{part}.weight", part): v
        for k, v in load_file(tmp_path / "ours" / FILE).items()
    }
    found = {k.replace(START, "text_encoder."): v for k, v in load_file(theirs / FILE).items()}
    assert found.keys() == ours.keys()
    assert all(torch.equal(found[key], ours[key]) for key in ours)
    again = joint_model()
    adapter.load(again, theirs)
    assert torch.equal(embeddings(again), embeddings(model))
    bare = {k: v for k, v in load_file(theirs / FILE).items() if part not in k}
    save_file(bare, tmp_path / "bare.safetensors")  # no settings: diffusers takes alpha = rank
    adapter.detach(again)
    adapter.load(again, tmp_path / "bare.safetensors")
    plain = pipeline()
    plain.load_lora_weights(tmp_path / "bare.safetensors")
    assert furthest(embeddings(plain), embeddings(again)) < 1e-6


@pytest.mark.skipif(int(transformers.__version__.split(".")[0]) < 5, reason="it was right before")
def test_magnitudes_under_diffusers_own_name_are_lost(tmp_path: Path) -> None:
    """That is why ours have another: diffusers leaves the base's norms in their place. Peft's own
    loader reads ours too."""
    model = trained_joint(tmp_path / "ours")
    theirs = pipeline()
    theirs.load_lora_weights(saved_by_diffusers(model, tmp_path / "theirs"))
    layer = theirs.text_encoder.get_submodule(LAYER)
    norms = layer.base_layer.weight.norm(dim=1)
    assert furthest(layer.lora_magnitude_vector["default_0"].weight, norms) < 1e-6
    ours = load_file(tmp_path / "ours" / FILE)
    values = {k.removeprefix(START): v for k, v in ours.items() if k.startswith(START)}
    network = joint_model().text_encoder
    network.add_adapter(model.text_encoder.peft_config["default"], "default")
    set_peft_model_state_dict(network, convert_state_dict_to_peft(values), adapter_name="default")
    weights, expected = network.state_dict(), model.text_encoder.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    magnitude = load_file(tmp_path / "theirs" / FILE)[f"text_encoder.{LAYER}.lora_magnitude_vector"]
    assert furthest(magnitude, norms) > 0.1


def test_a_fresh_adapter_is_that_of_every_earlier_version() -> None:
    """As 0.1 of 2026-11 began it, in both networks."""
    model = joint_model()
    adapter.attach(model, joint())
    tensors = adapter.parameters(model)
    for name, start in (
        (
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight",
            [-0.14231, 0.22999, 0.2777],
        ),
        (
            "text_encoder.encoder.layers.1.self_attn.out_proj.lora_A.weight",
            [0.05177, 0.16585, 0.27455],
        ),
    ):
        assert tensors[name].flatten()[:3].tolist() == pytest.approx(start, abs=1e-4)


def test_loaded_used_and_taken_off(tmp_path: Path) -> None:
    """By everything that encodes a text; then the text encoder is the plain one, to the bit."""
    tuned = embeddings(trained_joint(tmp_path))
    plain = joint_model()
    base, names = embeddings(plain), dict(plain.text_encoder.named_modules())
    model = mitune.load(pipeline(), adapter=tmp_path, device="cpu")
    assert model.fingerprint == plain.fingerprint
    assert torch.equal(embeddings(model), tuned)
    assert not any(p.requires_grad for p in adapter.parameters(model).values())
    prepared = Prepared(plain, precision="float64")
    before = prepared.encode_prompts(TEXTS)["encoder_hidden_states"]
    adapter.load(plain, tmp_path, fingerprint=plain.fingerprint)
    prepared.refresh()
    with torch.no_grad():
        hidden = model.encode_prompts([*TEXTS, ""])["encoder_hidden_states"].double()
        shared = torch.cat([projection(hidden) for projection in prepared._projections], dim=-1)
    both = prepared.encode_prompts([*TEXTS, ""])["encoder_hidden_states"]
    assert furthest(both, shared) < 1e-6
    assert torch.equal(prepared.encode_null()["encoder_hidden_states"], both[2:])
    adapter.detach(plain)
    prepared.refresh()
    assert torch.equal(embeddings(plain), base)
    assert torch.equal(prepared.encode_prompts(TEXTS)["encoder_hidden_states"], before)
    assert dict(plain.text_encoder.named_modules()) == names
    assert not adapter.parameters(plain)
    adapter.load(plain, tmp_path)  # and it may come again
    assert torch.equal(embeddings(plain), tuned)


def test_pictures_scores_and_comparison_are_of_the_tuned_text_encoder(tmp_path: Path) -> None:
    """Of an adapter that leaves the UNet alone, all that differs is the text."""
    model = joint_model()
    adapter.attach(model, joint())
    scramble_all(model)
    for name, parameter in adapter.parameters(model).items():
        if not name.startswith("text_encoder."):
            parameter.data.mul_(float(not name.endswith("lora_B.weight")))
    adapter.attach(plain := joint_model(), joint())
    for name, parameter in adapter.parameters(plain).items():
        if "magnitude" in name and not name.startswith("text_encoder."):
            adapter.parameters(model)[name].data.copy_(parameter)
    adapter.save(model, tmp_path, {"fingerprint": model.fingerprint})
    latents = torch.randn(2, 4, 8, 8)
    with_it = score(model, TEXTS, latents, draws=4)
    adapter.detach(model)
    assert furthest(score(model, TEXTS, latents, draws=4), with_it) > 1e-3
    base = embeddings(model)
    _, drawn = compare_models(
        model,
        {"tuned": tmp_path},
        TEXTS,
        images=1,
        seed=0,
        sampler=SamplerConfig(steps=4, guidance=2.0, t_min=0),
    )
    assert furthest(drawn["tuned"].latents, drawn["base"].latents) > 1e-2
    assert torch.equal(embeddings(model), base)


def test_both_move_and_the_model_is_left_plain(straight: Path, tmp_path: Path) -> None:
    fresh = joint_model()
    adapter.attach(fresh, joint())
    adapter.save(fresh, tmp_path / "fresh", {"fingerprint": "x"})
    before, after = load_file(tmp_path / "fresh" / FILE), load_file(straight / FILE)
    assert before.keys() == after.keys()
    assert all(furthest(before[key], after[key]) > 1e-6 for key in before)
    text = [key for key in after if key.startswith("text_encoder.text_model.encoder.layers.")]
    assert len(text) == 2 * 4 * 3
    model = joint_model()
    base = embeddings(model)
    tune(model, TinySet(), tmp_path / "again", joint())
    assert torch.equal(embeddings(model), base)
    assert not adapter.attached(model)
    assert (tmp_path / "again" / FILE).read_bytes() == (straight / FILE).read_bytes()


def test_each_network_has_its_own_start(tmp_path: Path) -> None:
    """The UNet's is that of a run without the text encoder; the text encoder's is none of it."""
    alone, both = joint_model(), joint_model()
    adapter.attach(alone, config())
    adapter.attach(both, joint())
    found = adapter.parameters(both)
    for name, tensor in adapter.parameters(alone).items():
        assert torch.equal(found[name], tensor)
    first = {
        part: next(p for n, p in found.items() if n.endswith("lora_A.weight") and part(n))
        for part in (lambda n: n.startswith("text"), lambda n: not n.startswith("text"))
    }
    one, other = (tensor.flatten()[:16] for tensor in first.values())
    assert furthest(one, other) > 1e-2


def test_one_step_is_adamw_with_each_its_own_rate(tmp_path: Path) -> None:
    """Loshchilov and Hutter, Algorithm 2, step 1; the second step of the linear rate is half."""
    rates = {"lr": 1e-2, "text_encoder_lr": 3e-3}
    eps: dict[str, Any] = {"eps": 1e-3, "iterations": 1, "checkpoint_every": 1}
    run(tmp_path / "one", **rates, **eps)
    moments = load_file(tmp_path / "one" / "checkpoints/step-000001/optimizer.safetensors")
    start, end = joint_model(), joint_model()
    adapter.attach(start, joint())
    adapter.load(end, tmp_path / "one")
    after = adapter.parameters(end)
    for name, before in adapter.parameters(start).items():
        lr = rates["text_encoder_lr" if name.startswith("text_encoder.") else "lr"]
        g = moments[f"{name}/exp_avg"].double() / (1 - 0.9)
        expected = before.double() * (1 - lr * 1e-2) - lr * g / (g.abs() + 1e-3)
        assert furthest(after[name], expected) < 1e-6, name
    run(tmp_path / "two", **rates, lr_scheduler="linear", iterations=2)
    lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["lr"] for line in lines] == pytest.approx([1e-2, 5e-3])
    assert [json.loads(line)["text_encoder_lr"] for line in lines] == pytest.approx([3e-3, 1.5e-3])


@pytest.mark.parametrize("changes", [{"micro_batch": 3}, {"gradient": "merged"}])
def test_neither_micro_batch_nor_way_changes_the_adapter(
    tmp_path: Path, straight: Path, changes: dict[str, Any]
) -> None:
    run(tmp_path, **changes)
    assert distance(tmp_path, straight) <= 1e-5


def test_two_processes_make_the_adapter_that_one_makes(tmp_path: Path, straight: Path) -> None:
    assert run_processes(tmp_path, 2, gradient="joint") == 0
    assert distance(tmp_path, straight) <= 1e-5


def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path, straight: Path) -> None:
    before = signal.getsignal(signal.SIGINT)

    def kill(done: int, total: int, loss: float) -> None:
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        tune(joint_model(), TinySet(), tmp_path, joint(), progress=kill)
    assert signal.getsignal(signal.SIGINT) is before
    run(tmp_path)
    one, other = tree(tmp_path), tree(straight)
    for name in (FILE, "checkpoints/step-000006/optimizer.safetensors"):
        assert one[name] == other[name]


def test_it_is_another_run_and_another_kind_of_start(tmp_path: Path, straight: Path) -> None:
    def refusal(out: Path, chosen: TuneConfig, start: Path | None = None) -> str:
        model = joint_model()
        with pytest.raises(UserError) as caught:
            tune(model, TinySet(), out, chosen, adapter=start)
        assert not adapter.attached(model)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "config.text_encoder_lr is 0.0005 there and None here" in refusal(
        straight, joint(text_encoder_lr=None)
    )
    new = tmp_path / "new"
    assert "the text_encoder is adapted there and not trained here" in refusal(
        new, joint(text_encoder_lr=None), straight
    )
    run(tmp_path / "unet", text_encoder_lr=None, iterations=1)
    assert "the text_encoder is plain there and trained here" in refusal(
        new, joint(), tmp_path / "unet"
    )
    assert not new.exists()
    out = tune(
        joint_model(), TinySet(), new, joint(lr=1e-9, text_encoder_lr=1e-9), adapter=straight
    )
    assert distance(out, straight) < 1e-6
    with pytest.raises(UserError, match="text_encoder_lr is 0: expected a positive number"):
        joint(text_encoder_lr=0)


def test_an_adapter_of_another_text_encoder_is_refused(tmp_path: Path) -> None:
    trained_joint(tmp_path)
    tensors = load_file(tmp_path / FILE)
    moved = {
        k.replace("text_model.encoder.layers.1", "text_model.encoder.layers.7"): t
        for k, t in tensors.items()
    }
    save_file(moved, tmp_path / "moved.safetensors")
    model = joint_model()
    base, names = embeddings(model), list(model.text_encoder.state_dict())
    with pytest.raises(UserError, match=r"the CLIPTextModel has no layer encoder\.layers\.7"):
        adapter.load(model, tmp_path / "moved.safetensors")
    assert torch.equal(embeddings(model), base)
    assert list(model.text_encoder.state_dict()) == names
    assert not adapter.attached(model)


def test_half_precision_trains_a_float32_adapter(tmp_path: Path) -> None:
    tune(joint_model("bfloat16"), TinySet(), tmp_path, joint(iterations=2))
    tensors = load_file(tmp_path / FILE)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert all(t.abs().max() > 0 for key, t in tensors.items() if "up" in key)


def test_the_card_tells_it(straight: Path) -> None:
    assert "| text_encoder_lr | 0.0005 |" in (straight / "README.md").read_text()


def test_the_option_reaches_the_config() -> None:
    preset = TuneConfig()
    words = ["tune", "--set", "s", "--out", "o"]
    made = configured(parse([*words, "--text-encoder-lr", "5e-6"]), preset)
    assert made.text_encoder_lr == 5e-6
    assert configured(parse(words), preset) == preset
    assert configured(parse([*words, "--method", "full"]), preset).method == "full"
