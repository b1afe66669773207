"""What the header and the tensors of a stranger's adapter may say: each of peft's settings is
honoured, harmless, or refused by its name."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from tiny_model import TinyModel, config, scramble

from mitune.adapters import adapter
from mitune.adapters.adapter_config import CHOOSING, HARMLESS, STARTS, WRITTEN
from mitune.adapters.adapter_file import FILE, Part, read_file, write_file
from mitune.core.errors import UserError

LAYER = "unet.down_blocks.0.to_q"
TO_Q: dict[str, Any] = {"unet.r": 2, "unet.target_modules": ["to_q"]}
NAN, INFINITE = float("nan"), float("inf")


def tensors(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    """A LoRA of rank 2 on one layer of 6 inputs and 4 outputs."""
    made = {"lora.down.weight": torch.ones(2, 6), "lora.up.weight": torch.ones(4, 2)}
    return {f"{LAYER}.{key}": value for key, value in (made | changes).items()}


def write(folder: Path, header: dict[str, Any] | str, **changes: torch.Tensor) -> Path:
    path = folder / "a.safetensors"
    text = header if isinstance(header, str) else json.dumps(header)
    save_file(tensors(**changes), path, {"lora_adapter_metadata": text})
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_file(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# A value of each field that changes what the adapter does. A field of a peft to come is not here:
# read what it does, then honour it, add it to HARMLESS with the reason, or refuse it.
REFUSED = {
    "peft_type": "LOHA",
    "init_lora_weights": "pissa",
    "modules_to_save": ["conv_out"],
    "bias": "all",
    "lora_bias": True,
    "layer_replication": [[0, 2]],
    "megatron_config": {"a": 1},
    "trainable_token_indices": [1],
    "target_parameters": ["weight"],
    "alora_invocation_tokens": [1],
    "use_qalora": True,
    "use_bdlora": {"a": 1},
    "velora_config": {"scale": 1.0},
    "monteclora_config": {"a": 1},
    "arrow_config": {"a": 1},
    "kasa_config": {"a": 1},
    "ensure_weight_tying": True,
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(LoraConfig)])
def test_every_field_of_peft_is_honoured_harmless_or_refused(tmp_path: Path, name: str) -> None:
    kinds = [name in WRITTEN, name in CHOOSING, name in HARMLESS, name in REFUSED]
    assert sum(kinds) == 1
    if name in REFUSED:
        message = refusal(write(tmp_path, {f"unet.{name}": REFUSED[name]}))
        assert f"was trained with {name} " in message
        default = LoraConfig().to_dict().get(name)
        read_file(write(tmp_path, {f"unet.{name}": default}))
    elif name in HARMLESS:
        assert HARMLESS[name]
        header = TO_Q | {"unet.lora_alpha": 3}
        read = read_file(write(tmp_path, header | {f"unet.{name}": "anything"}))
        plain = read_file(write(tmp_path, header))
        assert read.part("unet").config == plain.part("unet").config


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"])
def test_a_start_that_changes_the_base_is_refused(tmp_path: Path, start: str) -> None:
    message = refusal(write(tmp_path, {"unet.init_lora_weights": start}))
    assert f"init_lora_weights '{start}'" in message
    assert "changed base weights" in message


@pytest.mark.parametrize("start", [True, "gaussian", "eva", "orthogonal", "mica"])
def test_the_other_starts_leave_the_base_alone(start: str | bool) -> None:
    assert start is True or start in STARTS
    model = torch.nn.ModuleDict({"to_q": torch.nn.Linear(6, 6)})
    before = model["to_q"].weight.detach().clone()
    from peft import inject_adapter_in_model

    asked: Any = start
    inject_adapter_in_model(
        LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=asked), model
    )
    layer: Any = model["to_q"]
    assert torch.equal(layer.get_base_layer().weight, before)


def test_a_setting_of_a_peft_to_come_is_refused_unless_off(tmp_path: Path) -> None:
    for value in (None, False, [], {}, ""):
        read_file(write(tmp_path, {"unet.use_tomorrow": value}))
    for value in (True, 0, 1, "all", [0], {"a": 1}):
        message = refusal(write(tmp_path, {"unet.use_tomorrow": value}))
        assert f"was trained with use_tomorrow {value!r}" in message


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is no record"),
        ({"unet.r": 0}, "its rank is 0"),
        ({"unet.r": True}, "its rank is True"),
        ({"unet.r": 2.5}, "its rank is 2.5"),
        (TO_Q | {"unet.r": 10**9}, "its rank is 1000000000, far above that of its tensors"),
        ({"unet.rank_pattern": {"to_q": 0}}, "its rank is 0"),
        ({"unet.rank_pattern": [4]}, "its rank_pattern is [4], not a table"),
        ({"unet.lora_alpha": NAN}, "its alpha is nan"),
        ({"unet.lora_alpha": INFINITE}, "its alpha is inf"),
        ({"unet.lora_alpha": 1e39}, "its alpha is 1e+39"),
        ({"unet.lora_alpha": "8"}, "its alpha is '8'"),
        ({"unet.alpha_pattern": {"to_q": NAN}}, "its alpha is nan"),
        ({"unet.use_dora": "no"}, "its use_dora is 'no'"),
        ({"unet.r": 2}, "its target_modules is None"),
        (TO_Q | {"unet.target_modules": [1]}, "its target_modules is [1], not a name"),
        (TO_Q | {"unet.target_modules": 5}, "its target_modules is 5"),
        (TO_Q | {"unet.exclude_modules": {"a": 1}}, "its exclude_modules is {'a': 1}"),
        (TO_Q | {"unet.layers_pattern": 5}, "its layers_pattern is 5"),
        (TO_Q | {"unet.layers_pattern": "blocks"}, "peft refuses its settings"),
        (TO_Q | {"unet.layers_to_transform": ["a"]}, "its layers_to_transform is ['a']"),
        # Each takes longer than the universe has been there.
        (TO_Q | {"unet.target_modules": "(.*)*(.*)*x"}, "may take for ever"),
        (TO_Q | {"unet.exclude_modules": "(a|a)+$"}, "may take for ever"),
        (TO_Q | {"unet.rank_pattern": {".*.*.*.*.*.*.*.*x": 3}}, "may take for ever"),
        (TO_Q | {"unet.alpha_pattern": {"((.+)+)+x": 3}}, "may take for ever"),
        (TO_Q | {"unet.layers_pattern": ["(a*)*"]}, "may take for ever"),
        ({"text_encoder.r": 2}, "its header describes a text_encoder"),
        ({"text_encoder_2.r": 2}, "its header describes a text_encoder_2"),
        ({"prior.r": 2}, "its header says prior.r"),
    ],
)
def test_a_header_that_makes_no_sense(tmp_path: Path, header: Any, words: str) -> None:
    assert words in refusal(write(tmp_path, header))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lora.up.weight": torch.full((4, 2), NAN)}, "lora_B.weight that is not finite"),
        ({"lora.down.weight": torch.full((2, 6), INFINITE)}, "lora_A.weight that is not finite"),
        # Finite as it stands, but not as the float32 that it becomes.
        (
            {"lora.up.weight": torch.full((4, 2), 1e300, dtype=torch.float64)},
            "lora_B.weight that is not finite",
        ),
        ({"lora_magnitude_vector": torch.tensor([1, NAN, 1, 1])}, "magnitude_vector that is not"),
        ({"lora.up.weight": torch.ones(4, 2, dtype=torch.int8)}, "is of torch.int8"),
        ({"lora.up.weight": torch.ones(4, 2, dtype=torch.bool)}, "is of torch.bool"),
        ({"lora.down.weight": torch.ones(0, 6)}, "its rank is 0"),
        ({"lora.down.weight": torch.tensor(1.0)}, "its rank is 0"),
        ({"lora_A.weight": torch.ones(2, 6)}, "some are there twice"),
        ({"alpha": torch.tensor(2.0)}, "alpha is no part of a LoRA or DoRA"),
        ({"lora.up.bias": torch.ones(4)}, "lora_B.bias is no part"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_tensors_that_make_no_adapter(tmp_path: Path, changes: Any, words: str) -> None:
    assert words in refusal(write(tmp_path, {}, **changes))


def test_a_wide_or_narrow_float_is_held_as_float32(tmp_path: Path) -> None:
    model = TinyModel()
    adapter.attach(model, config(method="lora"))
    scramble(model.unet)
    adapter.save(model, tmp_path, {"fingerprint": model.fingerprint})
    content = read_file(tmp_path)
    for dtype in (torch.float64, torch.float16):
        given = {key: value.to(dtype) for key, value in content.part("unet").tensors.items()}
        part = Part(tensors=given, config=content.part("unet").config)
        other = TinyModel()
        adapter.load(other, write_file(tmp_path / str(dtype), {"unet": part}, {}))
        for name, value in adapter.parameters(other).items():
            assert value.dtype == torch.float32
            assert torch.equal(value, given[name].float())


def test_layers_that_peft_was_told_to_leave_out_are_left_out(tmp_path: Path) -> None:
    """exclude_modules and layers_to_transform, as diffusers writes them, and through a second
    save."""
    model = TinyModel()
    for chosen in ({"exclude_modules": ["attn1.to_q"]}, {"layers_to_transform": [1]}):
        asked = LoraConfig(r=2, lora_alpha=6, target_modules=["to_q"], **chosen)
        model.unet.add_adapter(asked)
        scramble(model.unet)
        ours = model.predict()
        StableDiffusionPipeline.save_lora_weights(
            tmp_path / "theirs",
            unet_lora_layers=get_peft_model_state_dict(model.unet),
            unet_lora_adapter_metadata=asked.to_dict(),
        )
        adapter.detach(model)
        adapter.load(model, tmp_path / "theirs")
        assert torch.equal(model.predict(), ours)
        adapter.save(model, tmp_path / "again", {"fingerprint": model.fingerprint})
        adapter.detach(model)
        adapter.load(model, tmp_path / "again")
        assert torch.equal(model.predict(), ours)
        adapter.detach(model)


def test_the_patterns_of_trainers_are_taken(tmp_path: Path) -> None:
    for pattern in (
        "^down_blocks.0.to_q",
        r"down_blocks\.\d+\.attentions\.\d+\.transformer_blocks\.\d+\.attn\d+\.to_(q|k|v)",
        r".*\.attn[12]\.to_[qkv]",
        ".*attn1.*to_out.0",
    ):
        for field in ({"target_modules": pattern}, {"rank_pattern": {pattern: 2}}):
            header = TO_Q | {f"unet.{name}": value for name, value in field.items()}
            read_file(write(tmp_path, header))


def test_a_pattern_that_is_no_regular_expression(tmp_path: Path) -> None:
    model = TinyModel()
    adapter.attach(model, config())
    adapter.save(model, tmp_path, {"fingerprint": model.fingerprint})
    part = read_file(tmp_path).part("unet")
    part.config.alpha_pattern = {"to_q(": 4}
    write_file(tmp_path, {"unet": part}, {})
    with pytest.raises(UserError, match=re.escape(f"adapter {tmp_path / FILE} does not fit")):
        adapter.load(TinyModel(), tmp_path)


def test_a_text_encoder_that_the_model_has_not(tmp_path: Path) -> None:
    path, name = tmp_path / "a.safetensors", "text_encoder.x.q_proj.lora_linear_layer"
    save_file(
        {f"{name}.down.weight": torch.ones(2, 6), f"{name}.up.weight": torch.ones(4, 2)}, path
    )
    with pytest.raises(UserError, match="the model has no text_encoder"):
        adapter.load(TinyModel(), path)


def test_files_that_are_no_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    whole = write(tmp_path, {}).read_bytes()
    size = int.from_bytes(whole[:8], "little")
    for content in (
        b"",
        whole[:4],
        (2**62).to_bytes(8, "little") + b"{}",
        whole[:8] + b"x" * size + whole[8 + size :],
        whole + b"more",
    ):
        path.write_bytes(content)
        assert "cannot be read" in refusal(path)
