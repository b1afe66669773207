"""A checkpoint in one file is the model of the folder that it was made from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from original_layout import original_layout
from pixart_sigma_pipeline import pixart_sigma_pipeline
from safetensors.torch import load_file, save_file
from sdxl_pipeline import sdxl_pipeline
from tiny_parts import furthest, predict

import mitune
from mitune.core.errors import UserError
from mitune.worlds.shapes_v1.model import FOLDER

FILES = "x.safetensors", "half.safetensors"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER)
    path = tmp_path_factory.mktemp("single") / "shapes.safetensors"
    save_file(original_layout(pipeline), path)
    return path


def test_it_is_the_folder_s_model(file: Path) -> None:
    one, other = mitune.load(file, pipeline=FOLDER), mitune.load(str(FOLDER))
    assert one.fingerprint == other.fingerprint
    assert one.parts == other.parts
    assert torch.equal(predict(one), predict(other))
    latents = torch.randn(1, *one.latent_shape, generator=torch.Generator().manual_seed(0))
    assert furthest(one.decode(latents), other.decode(latents)) < 1e-6


def test_stable_diffusion_xl_too(tmp_path: Path) -> None:
    pipeline = sdxl_pipeline()
    pipeline.save_pretrained(tmp_path / "folder")
    found = original_layout(pipeline)
    save_file(found, tmp_path / "x.safetensors")
    save_file({name: x.half() for name, x in found.items()}, tmp_path / "half.safetensors")
    folder = mitune.load(tmp_path / "folder")
    one, half = (mitune.load(tmp_path / f, pipeline=tmp_path / "folder") for f in FILES)
    assert (one.fingerprint, one.parts) == (folder.fingerprint, folder.parts)
    assert torch.equal(predict(one), predict(folder))
    assert next(half.networks["unet"].parameters()).dtype == torch.float32
    assert furthest(predict(half), predict(folder)) < 2e-2


def test_parts_that_it_lacks_are_the_folder_s(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = load_file(file)
    save_file(
        {name: x for name, x in found.items() if "cond_stage" not in name},
        tmp_path / "x.safetensors",
    )
    model = mitune.load(tmp_path / "x.safetensors", pipeline=FOLDER)
    assert model.fingerprint == mitune.load(str(FOLDER)).fingerprint
    assert f"lacks the text_encoder: that of {FOLDER} is taken" in caplog.text


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found.pop("model.diffusion_model.out.2.bias"), "it lacks weights"),
        (
            lambda found: found.pop(
                "cond_stage_model.transformer.text_model.final_layer_norm.weight"
            ),
            "final_layer_norm.weight",
        ),
        (lambda found: found.pop("first_stage_model.decoder.norm_out.weight"), "it lacks weights"),
        (lambda found: found.clear() or found.update(x=torch.zeros(1)), "Failed to load UNet2D"),
    ],
    ids=["unet", "text encoder", "vae", "nothing"],
)
def test_weights_that_are_missing_are_told(
    file: Path, tmp_path: Path, change: Change, words: str
) -> None:
    found = load_file(file)
    change(found)
    save_file(found, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=words):
        mitune.load(tmp_path / "x.safetensors", pipeline=FOLDER)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("x.ckpt", {}, "other kinds can run code and are never read"),
        ("x.safetensors", {"variant": "fp16"}, "a file has one set of weights"),
        ("x.SAFETENSORS", {}, "ends in .safetensors; rename it"),
        ("x.safetensors", {}, "cannot be loaded"),
    ],
    ids=["pickled", "variant", "no such pipeline", "damaged"],
)
def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: Any, words: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(UserError, match=words):
        mitune.load(tmp_path / name, **options)


def test_mistakes_with_the_pipeline(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sdxl_pipeline().save_pretrained(tmp_path / "xl")
    pixart_sigma_pipeline().save_pretrained(tmp_path / "pixart")
    for pipeline, words in (
        ("no/such/name", "pipeline no/such/name is not there"),
        ("/nowhere/at/all", "pipeline /nowhere/at/all is not there"),
        (tmp_path / "xl", r"x?shapes\.safetensors"),
        (tmp_path / "pixart", "is a PixArtSigmaPipeline, which diffusers cannot load from one"),
        (sdxl_pipeline(), "pipeline is a StableDiffusionXLPipeline: expected a diffusers folder"),
    ):
        with pytest.raises(UserError, match=words) as raised:
            mitune.load(file, pipeline=pipeline)
        assert "low_cpu_mem_usage" not in str(raised.value)
    with pytest.raises(UserError, match="is not there: expected a checkpoint in one file"):
        mitune.load(tmp_path / "nowhere.safetensors", pipeline=FOLDER)


def test_weights_without_a_place_are_not_dropped(file: Path, tmp_path: Path) -> None:
    """A folder of a smaller model would load another one, without a word."""
    for part, change in (
        ("text_encoder", {"num_hidden_layers": 2}),
        ("unet", {"mid_block_type": None}),
    ):
        folder = shutil.copytree(FOLDER, tmp_path / part)
        config = json.loads((folder / part / "config.json").read_text())
        (folder / part / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=f"the {part} has no place for"):
            mitune.load(file, pipeline=folder)


def test_a_damaged_part_is_not_exchanged_for_the_folder_s(file: Path, tmp_path: Path) -> None:
    found = load_file(file)
    found.pop("cond_stage_model.transformer.text_model.embeddings.position_embedding.weight")
    save_file(found, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="cannot be loaded"):
        mitune.load(tmp_path / "x.safetensors", pipeline=FOLDER)


def test_a_lora_is_no_model(tmp_path: Path) -> None:
    save_file({"unet.down.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"is a LoRA: .* give it as --adapter"):
        mitune.load(tmp_path / "x.safetensors", pipeline=FOLDER)


@pytest.mark.parametrize("model", ["shapes-v1", str(FOLDER)])
def test_a_pipeline_beside_what_is_no_file(model: str) -> None:
    with pytest.raises(UserError, match=r"pipeline is 'x' and .* no .*file: expected none"):
        mitune.load(model, pipeline="x")


def test_its_card_does_not_take_the_file_for_a_name_on_the_hub(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").mkdir()
    shutil.copy(file, tmp_path / "m" / "x.safetensors")
    monkeypatch.chdir(tmp_path)
    model = mitune.load("m/x.safetensors", pipeline=FOLDER)
    built = mitune.build_set(model, ["a red circle"], "set", candidates=2, steps=2)
    mitune.tune(model, built, "adapter", rank=2, batch=2, iterations=1)
    card = Path("adapter/README.md").read_text()
    assert "base_model" not in card
    assert "`from_single_file` of its pipeline's class loads it" in card
