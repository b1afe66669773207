"""A merged folder is the model with its adapter, for diffusers and for mitune."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from joint_model import embeddings, predict
from safetensors.torch import load_file
from tiny_model import config
from torch import Tensor
from trained import furthest

import mitune
from mitune.adapters import adapter
from mitune.adapters.adapter_file import read_file, write_file
from mitune.adapters.export.whole_model import merge
from mitune.adapters.export.write import export_adapter
from mitune.core.errors import UserError

KINDS = [
    {"method": "dora"},
    {"method": "lora", "alpha": 10.0},
    {"method": "dora", "targets": ("to_q", "conv1", "proj_in")},
]


@pytest.fixture
def text(shapes_model: Any) -> Tensor:
    embedding: Tensor = shapes_model.encode_prompts(["a red circle", "a blue square"])[
        "encoder_hidden_states"
    ]
    return embedding


@pytest.fixture
def trained(shapes_model: Any, text: Tensor, tmp_path: Path) -> Callable[..., Tensor]:
    """Makes an adapter of the embedded model; returns what the model predicts with it.

    Its values are smaller than ``scramble``'s: with those a LoRA saturates the attention of this
    larger model, whose float32 prediction is then 5e-3 off its own float64 one.
    """

    def make(**changes: Any) -> Tensor:
        adapter.attach(shapes_model, config(**changes))
        generator = torch.Generator().manual_seed(9)
        for parameter in adapter.parameters(shapes_model).values():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        notes = {"fingerprint": shapes_model.fingerprint, "model": "shapes-v1"}
        adapter.save(shapes_model, tmp_path / "a", notes)
        prediction = predict(shapes_model.unet, text)
        adapter.detach(shapes_model)
        return prediction

    return make


@pytest.mark.parametrize("changes", KINDS, ids=["dora", "lora", "convolutions"])
def test_diffusers_draws_from_the_folder_what_model_and_adapter_draw(
    shapes_model: Any, trained: Any, text: Tensor, tmp_path: Path, changes: dict[str, Any]
) -> None:
    expected, base = trained(**changes), predict(shapes_model.unet, text)
    assert furthest(expected, base) > 1e-2
    out = merge(shapes_model, tmp_path / "a", tmp_path / "m")
    pipeline = StableDiffusionPipeline.from_pretrained(out)
    assert furthest(embeddings(pipeline), embeddings(shapes_model)) < 1e-6
    assert furthest(predict(pipeline.unet, text), expected) < 1e-5
    assert not any("lora" in name for name in pipeline.unet.state_dict())
    for name in ("vae", "text_encoder"):
        ours, theirs = (getattr(p, name).state_dict() for p in (shapes_model, pipeline))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert pipeline.scheduler.config == shapes_model.scheduler.config
    # And the model is left as it was.
    assert torch.equal(predict(shapes_model.unet, text), base)


def test_mitune_loads_it_as_another_model(
    shapes_model: Any, trained: Any, text: Tensor, tmp_path: Path
) -> None:
    expected = trained()
    export_adapter(shapes_model, tmp_path / "a", tmp_path / "m", "merged")
    model = mitune.load(tmp_path / "m", device="cpu")
    assert furthest(predict(model.unet, text), expected) < 1e-5
    assert model.fingerprint != shapes_model.fingerprint
    # What the card says is lost.
    assert model.preset.candidates == 50
    assert "What an embedded model has of its own is lost" in " ".join(
        (tmp_path / "m" / "README.md").read_text().split()
    )
    with pytest.raises(UserError, match="another model"):
        mitune.load(tmp_path / "m", adapter=tmp_path / "a", device="cpu")


def test_the_folder_is_plain_diffusers_in_float32(
    shapes_model: Any, trained: Any, tmp_path: Path
) -> None:
    trained()
    merge(shapes_model, tmp_path / "a", tmp_path / "m")
    files = [path for path in (tmp_path / "m").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"}
    for path in files:
        if path.suffix == ".safetensors":
            kinds = {value.dtype for value in load_file(path).values() if value.is_floating_point()}
            assert kinds == {torch.float32}
    index = json.loads((tmp_path / "m" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["safety_checker"] == [None, None]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_merge_that_is_cut_short_leaves_nothing(
    shapes_model: Any,
    trained: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    def fail(self: Any, folder: Path, **_: Any) -> None:
        (Path(folder) / "unet").mkdir()
        (Path(folder) / "unet" / "half").write_text("ha")
        raise error

    trained()
    monkeypatch.setattr(StableDiffusionPipeline, "save_pretrained", fail)
    with pytest.raises((KeyboardInterrupt, UserError)):
        merge(shapes_model, tmp_path / "a", tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert not adapter.attached(shapes_model)


def test_a_folder_that_cannot_be_written(shapes_model: Any, trained: Any, tmp_path: Path) -> None:
    trained()
    with pytest.raises(UserError, match="/proc"):
        merge(shapes_model, tmp_path / "a", "/proc/m")


def test_weights_beyond_float32_are_not_written(
    shapes_model: Any, trained: Any, tmp_path: Path
) -> None:
    trained(method="lora")
    part = read_file(tmp_path / "a").part("unet")
    alpha: Any = 3e38
    part.config.lora_alpha = alpha
    for tensor in part.tensors.values():
        tensor *= 100
    write_file(tmp_path / "b", {"unet": part}, {})
    with pytest.raises(UserError, match=r"the adapter makes the weights of \S+ infinite"):
        merge(shapes_model, tmp_path / "b", tmp_path / "m")
    assert not (tmp_path / "m").exists()
