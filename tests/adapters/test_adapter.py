import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from tiny_model import TinyModel, config, scramble

from mitune.adapters import adapter
from mitune.adapters.adapter_file import FILE
from mitune.core.errors import UserError


def saved(folder: Path, weights: int = 0, **changes: Any) -> TinyModel:
    """A model that still carries the trained-looking adapter saved in ``folder``."""
    model = TinyModel(weights=weights)
    adapter.attach(model, config(**changes))
    scramble(model.unet)
    adapter.save(model, folder, {"fingerprint": model.fingerprint, "model": "tiny"})
    return model


def refusal(model: TinyModel, path: Path) -> str:
    """The message of a load that must fail and must leave the model as it was."""
    before, names = model.predict(), list(model.unet.state_dict())
    with pytest.raises(UserError) as caught:
        adapter.load(model, path, fingerprint=model.fingerprint)
    assert "\n" not in str(caught.value)
    assert torch.equal(model.predict(), before)
    assert list(model.unet.state_dict()) == names
    return str(caught.value)


@pytest.mark.parametrize("method", ["dora", "lora"])
def test_attach_changes_nothing_yet_and_detach_restores_the_base(method: str) -> None:
    model = TinyModel()
    base, names = model.predict(), dict(model.unet.named_modules())
    adapter.attach(model, config(method=method))
    assert torch.allclose(model.predict(), base, atol=1e-6)
    scramble(model.unet)
    assert (model.predict() - base).abs().max() > 1e-3
    adapter.detach(model)
    assert torch.equal(model.predict(), base)
    assert dict(model.unet.named_modules()) == names
    adapter.detach(model)  # without adapter: nothing
    adapter.attach(model, config(method=method))


def test_the_start_is_keyed_by_the_seed_and_leaves_the_global_state_alone() -> None:
    starts = []
    for seed, noise in ((1, 0), (1, 7), (2, 0)):
        model = TinyModel()
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        adapter.attach(model, config(seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
        starts.append([p.detach().clone() for p in adapter.parameters(model).values()])
    assert all(torch.equal(a, b) for a, b in zip(starts[0], starts[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(starts[0], starts[2], strict=True))


def test_gaussian_start_has_deviation_one_over_rank_and_zero_b() -> None:
    model = TinyModel()
    adapter.attach(model, config(rank=16))
    tensors = adapter.parameters(model)
    a = torch.cat([p.flatten() for name, p in tensors.items() if "lora_A" in name])
    assert a.std().item() == pytest.approx(1 / 16, rel=0.1)
    assert all(not p.any() for name, p in tensors.items() if "lora_B" in name)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "dora"},
        {"method": "dora", "rank": 4, "alpha": 10.0},
        {"method": "lora", "rank": 4, "alpha": 1.0},
        {"method": "dora", "targets": ("to_q", "conv1", "proj_in")},
    ],
    ids=["dora", "dora-alpha", "lora-alpha", "convolutions"],
)
def test_plain_diffusers_reads_what_we_save(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = saved(tmp_path, **changes)
    ours = model.predict()
    pipeline = TinyModel().plain_pipeline()
    pipeline.load_lora_weights(tmp_path)
    plain = TinyModel()
    base = plain.predict()
    plain.unet = pipeline.unet
    assert (ours - base).abs().max() > 1e-3
    assert (plain.predict() - ours).abs().max() <= 1e-5
    again = TinyModel()
    assert adapter.load(again, tmp_path, fingerprint=again.fingerprint)["model"] == "tiny"
    assert torch.equal(again.predict(), ours)


def test_the_adapted_weight_is_the_equation_of_dora(tmp_path: Path) -> None:
    model = saved(tmp_path, rank=4, alpha=10.0, targets=("to_q", "conv1"))
    tensors = load_file(tmp_path / FILE)
    plain = TinyModel().unet.double()
    for name, module in plain.named_modules():
        if not name.endswith((".to_q", ".conv1")):
            continue
        a, b, m = (
            tensors[f"unet.{name}.lora{part}"].double()
            for part in (".down.weight", ".up.weight", "_magnitude_vector")
        )
        update = (b.flatten(1) @ a.flatten(1)).view_as(module.weight)
        v = module.weight + 10.0 / 4 * update
        norm = v.flatten(1).norm(dim=1)
        module.weight.data = v * (m.flatten() / norm).view(-1, *(1,) * (v.dim() - 1))
    merged = TinyModel()
    merged.unet, merged.dtype = plain, torch.float64
    assert (merged.predict() - model.predict()).abs().max() <= 1e-5


def test_saving_twice_gives_the_same_bytes_and_survives_a_reload(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    saved(tmp_path / "b")
    first = (tmp_path / "a" / FILE).read_bytes()
    assert first == (tmp_path / "b" / FILE).read_bytes()
    model = TinyModel()
    notes = adapter.load(model, tmp_path / "a" / FILE)
    adapter.save(model, tmp_path / "c", notes)
    assert first == (tmp_path / "c" / FILE).read_bytes()


def test_a_half_precision_model_carries_a_float32_adapter(tmp_path: Path) -> None:
    model = saved(tmp_path)
    values = adapter.parameters(model)
    half = TinyModel()
    half.unet.bfloat16()
    half.dtype = torch.bfloat16
    base = half.predict().float()
    adapter.attach(half, config())
    # Magnitudes rounded to bfloat16 would move the prediction before the first step.
    for name, module in half.unet.named_modules():
        if name.endswith(".to_q"):
            norm = module.base_layer.weight.float().norm(dim=1)
            magnitude = module.lora_magnitude_vector["default"].weight
            assert magnitude.dtype == torch.float32
            assert torch.allclose(magnitude, norm, rtol=1e-6)
    assert (half.predict().float() - base).abs().max() < 0.05
    adapter.detach(half)
    adapter.load(half, tmp_path)
    for name, value in adapter.parameters(half).items():
        assert torch.equal(value, values[name])


def test_loaded_adapters_are_frozen_unless_asked(tmp_path: Path) -> None:
    saved(tmp_path)
    for trainable in (False, True):
        model = TinyModel()
        adapter.load(model, tmp_path, trainable=trainable)
        own = {id(p) for p in adapter.parameters(model).values()}
        grads = {id(p) for p in model.unet.parameters() if p.requires_grad}
        assert grads == (own if trainable else set())


def test_an_adapter_of_another_trainer_is_read_as_diffusers_reads_it(tmp_path: Path) -> None:
    model = saved(tmp_path / "ours", rank=4, alpha=4)
    bare = load_file(tmp_path / "ours" / FILE)
    (tmp_path / "bare").mkdir()
    save_file(bare, tmp_path / "bare" / FILE)
    other = TinyModel(weights=0)
    assert adapter.load(other, tmp_path / "bare", fingerprint=other.fingerprint) == {}
    assert torch.equal(other.predict(), model.predict())


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    message = refusal(TinyModel(weights=1), tmp_path)
    assert "another model (tiny, fingerprint 000000000000)" in message


def test_an_adapter_of_another_architecture_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    tensors = load_file(tmp_path / FILE)
    wider = {key: torch.cat([t, t]) if "up" in key else t for key, t in tensors.items()}
    save_file(wider, tmp_path / "wider.safetensors")
    assert re.search(
        r"lora_B.weight is \[\d+, 4\], expected",
        refusal(TinyModel(), tmp_path / "wider.safetensors"),
    )
    moved = {key.replace("attn1", "attn7"): t for key, t in tensors.items()}
    save_file(moved, tmp_path / "moved.safetensors")
    assert "has no layer" in refusal(TinyModel(), tmp_path / "moved.safetensors")
    half = {key: t for key, t in tensors.items() if "magnitude" in key or "down" in key}
    save_file(half, tmp_path / "half.safetensors")
    assert "is absent" in refusal(TinyModel(), tmp_path / "half.safetensors")


def test_a_header_that_lies_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    tensors = load_file(tmp_path / FILE)
    lies = {
        "expected": {"unet.r": 8, "unet.lora_alpha": 8, "unet.target_modules": ["to_q"]},
        "peft refuses": {"unet.r": 4, "unet.target_modules": ["attn1"]},
        "rank is -1": {"unet.r": -1, "unet.target_modules": ["to_q"]},
    }
    for expected, lie in lies.items():
        save_file(tensors, tmp_path / "lie.safetensors", {"lora_adapter_metadata": json.dumps(lie)})
        model = TinyModel()
        assert expected in refusal(model, tmp_path / "lie.safetensors")
        adapter.load(model, tmp_path)  # and the model is still good for a true one
    save_file(tensors, tmp_path / "lie.safetensors", {"lora_adapter_metadata": "{"})
    assert "not JSON" in refusal(TinyModel(), tmp_path / "lie.safetensors")


def test_what_is_no_adapter_is_refused(tmp_path: Path) -> None:
    model = TinyModel()
    assert "is not there" in refusal(model, tmp_path / "absent")
    assert "is not there" in refusal(model, tmp_path)
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"not a tensor in sight")
    assert "cannot be read" in refusal(model, garbage)
    saved(tmp_path / "good")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "good" / FILE).read_bytes()[:-100])
    assert "cannot be read" in refusal(model, cut)
    torch.save({"unet.x.lora.down.weight": torch.ones(1)}, tmp_path / "pickled.bin")
    assert "cannot be read" in refusal(model, tmp_path / "pickled.bin")
    save_file({"conv_in.weight": torch.ones(1)}, garbage)
    assert "holds conv_in.weight" in refusal(model, garbage)
    save_file({"unet.conv_in.weight": torch.ones(1)}, garbage)
    assert "no part of a LoRA" in refusal(model, garbage)
    save_file({}, garbage)
    assert "holds nothing" in refusal(model, garbage)


def test_a_second_adapter_is_refused_and_the_first_stays(tmp_path: Path) -> None:
    model = saved(tmp_path)
    before = model.predict()
    for put in (
        lambda: adapter.attach(model, config()),
        lambda: adapter.load(model, tmp_path),
    ):
        with pytest.raises(UserError, match="already carries"):
            put()
        assert torch.equal(model.predict(), before)


def test_targets_that_match_nothing_list_the_candidates() -> None:
    for target in ("to_x", "attn1"):
        model = TinyModel()
        with pytest.raises(UserError, match=r"to_k, to_out\.0, to_q, to_v") as caught:
            adapter.attach(model, config(targets=("to_q", target)))
        assert target in str(caught.value)
        assert not adapter.attached(model)


def test_save_asks_for_an_adapter_and_a_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without adapter"):
        adapter.save(TinyModel(), tmp_path, {"fingerprint": "x"})
    model = TinyModel()
    adapter.attach(model, config())
    with pytest.raises(ValueError, match="fingerprint"):
        adapter.save(model, tmp_path, {})
    assert not any(tmp_path.iterdir())


def test_the_pipeline_class_itself_writes_this_layout(tmp_path: Path) -> None:
    # The reference: diffusers' own save of the same adapter, key by key and bit by bit.
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    model = saved(tmp_path / "ours", alpha=10.0)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path / "theirs",
        unet_lora_layers=convert_state_dict_to_diffusers(get_peft_model_state_dict(model.unet)),
        unet_lora_adapter_metadata=model.unet.peft_config["default"].to_dict(),
    )
    ours, theirs = load_file(tmp_path / "ours" / FILE), load_file(tmp_path / "theirs" / FILE)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    other = TinyModel()
    adapter.load(other, tmp_path / "theirs")
    assert torch.equal(other.predict(), model.predict())
