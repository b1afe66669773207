"""Model folders that are damaged, odd or of another family: each is one line that names the part,
and what is only unusual loads as the plain folder does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from mitune.core.errors import UserError
from mitune.load import load
from mitune.scoring.score import score
from mitune.worlds.shapes_v1.model import FOLDER

Damage = Callable[[Path], object]
WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "m"))


def edit(file: str, **changes: Any) -> Damage:
    """Changes in a JSON file; None in the place of a dict removes the key."""

    def damage(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def drop(file: str, key: str) -> Damage:
    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        del content[key]
        (folder / file).write_text(json.dumps(content))

    return damage


def write(file: str, content: bytes) -> Damage:
    return lambda folder: (folder / file).write_bytes(content)


def remove(*files: str) -> Damage:
    return lambda folder: [(folder / file).unlink() for file in files]


def both(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


def tensors(part: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """``change`` made in place to the tensors of a part's file."""

    def damage(folder: Path) -> None:
        found = load_file(folder / WEIGHTS[part])
        change(found)
        save_file(found, folder / WEIGHTS[part], metadata={"format": "pt"})

    return damage


def poison(part: str, name: str, value: float) -> Damage:
    return tensors(part, lambda found: found[name].view(-1)[:1].fill_(value))


def without(part: str, prefix: str) -> Damage:
    return tensors(
        part, lambda found: [found.pop(key) for key in [*found] if key.startswith(prefix)]
    )


def prefixed(found: dict[str, torch.Tensor]) -> None:
    for key in [*found]:
        found[f"clip_l.transformer.text_model.{key}"] = found.pop(key)


def unet(**changes: Any) -> Damage:
    """Another UNet in the folder, whole in itself."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / "unet/config.json").read_text())
        own = {key: value for key, value in config.items() if key[0] != "_"}
        shutil.rmtree(folder / "unet")
        UNet2DConditionModel(**(own | changes)).save_pretrained(folder / "unet")

    return damage


def vae(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "vae/config.json").read_text())
        own = {key: value for key, value in config.items() if key[0] != "_"}
        shutil.rmtree(folder / "vae")
        AutoencoderKL(**(own | changes)).save_pretrained(folder / "vae")

    return damage


def renamed(part: str, end: str) -> Damage:
    return lambda folder: (folder / WEIGHTS[part]).rename(
        folder / WEIGHTS[part].replace(".safetensors", end)
    )


XL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 112,
}
INDEX, SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"
TOKENIZER = "tokenizer/tokenizer_config.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 8418792\n"

DAMAGES: dict[str, tuple[Damage, str]] = {
    # The folder as a whole.
    "empty index": (write(INDEX, b"{}"), "of no parts: expected an AuraFlow"),
    "index of a list": (write(INDEX, b"[]"), "of no parts: expected an AuraFlow"),
    "half an index": (write(INDEX, b'{"_class'), "model_index.json cannot be read"),
    "index without vae": (drop(INDEX, "vae"), "without vae"),
    "second text encoder": (
        edit(INDEX, text_encoder_2=["transformers", "CLIPTextModelWithProjection"]),
        "with text_encoder_2: expected .* a StableDiffusionPipeline",
    ),
    "pooled text": (
        edit(INDEX, text_encoder=["transformers", "CLIPTextModelWithProjection"]),
        "its text_encoder is a CLIPTextModelWithProjection: expected CLIPTextModel",
    ),
    "tiny vae": (edit(INDEX, vae=["diffusers", "AutoencoderTiny"]), "expected AutoencoderKL"),
    "no vae folder": (lambda folder: shutil.rmtree(folder / "vae"), "the vae has no weights"),
    # Files.
    "truncated unet": (
        lambda folder: (folder / WEIGHTS["unet"]).write_bytes(
            (folder / WEIGHTS["unet"]).read_bytes()[:5000]
        ),
        "restore the files in unet/",
    ),
    "empty text encoder": (
        write(WEIGHTS["text_encoder"], b""),
        "restore the files in text_encoder/",
    ),
    "pointer of Git LFS": (write(WEIGHTS["vae"], POINTER), "restore the files in vae/"),
    "half a config": (write("unet/config.json", b'{"act'), "restore the files in unet/"),
    "no scheduler config": (remove(SCHEDULER), "cannot be loaded"),
    "fp16 only": (renamed("unet", ".fp16.safetensors"), "give --variant fp16"),
    "shards of fp16 only": (
        renamed("text_encoder", ".fp16-00001-of-00002.safetensors"),
        "variant fp16 only",
    ),
    "pickled only": (
        both(remove(WEIGHTS["vae"]), write("vae/diffusion_pytorch_model.bin", b"PK")),
        r"pickled weights only \(diffusion_pytorch_model.bin\)",
    ),
    "no weights": (remove(WEIGHTS["text_encoder"]), "the text_encoder has no weights"),
    # Weights.
    "unet lacks a block": (
        without("unet", "up_blocks.1"),
        r"the unet lacks \d+ weights, such as up",
    ),
    "vae lacks its middle": (without("vae", "decoder.mid"), "the vae lacks 16 weights"),
    "text encoder lacks a layer": (
        without("text_encoder", "encoder.layers.2"),
        "the text_encoder lacks 16 weights",
    ),
    "text encoder under a prefix": (
        tensors("text_encoder", prefixed),
        "lacks 52 weights, .* and has no place for 52 weights",
    ),
    "a weight too many": (
        tensors("unet", lambda found: found.update({"extra.weight": torch.zeros(1)})),
        "has no place for 1 weights, such as extra.weight",
    ),
    "a layer fewer in the config": (
        edit("text_encoder/config.json", num_hidden_layers=2),
        "has no place for 16 weights",
    ),
    "another shape": (
        tensors("unet", lambda found: found.update({"conv_in.bias": torch.zeros(5)})),
        "conv_in.bias",
    ),
    "another hidden size": (edit("text_encoder/config.json", hidden_size=32), "text_encoder"),
    "NaN in the unet": (
        poison("unet", "conv_in.bias", torch.nan),
        "unet's weight conv_in.bias is not finite",
    ),
    "infinity in the vae": (
        poison("vae", "decoder.conv_out.bias", -torch.inf),
        "vae's weight decoder.conv_out.bias is not finite",
    ),
    "NaN in the text encoder": (
        poison("text_encoder", "final_layer_norm.bias", torch.nan),
        "text_encoder's weight .*final_layer_norm.bias is not finite",
    ),
    # The tokenizer.
    "no vocabulary": (
        remove("tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer.json"),
        r"knows \d tokens and the text_encoder has 564",
    ),
    "no merges": (
        both(
            remove("tokenizer/tokenizer.json"),
            write("tokenizer/merges.txt", b"#version: 0.2\n"),
        ),
        "no merge that makes 50 of its 50 longer tokens",
    ),
    "more tokens than rows": (
        edit(TOKENIZER, additional_special_tokens=["<one>", "<two>"]),
        "knows 566 tokens and the text_encoder has 564",
    ),
    "no model_max_length": (drop(TOKENIZER, "model_max_length"), "is missing: expected 3 to 16"),
    "too long": (edit(TOKENIZER, model_max_length=100), "is 100: expected 3 to 16"),
    "no room for a text": (edit(TOKENIZER, model_max_length=2), "is 2: expected 3 to 16"),
    # The UNet and the VAE.
    "inpainting": (unet(in_channels=9), "takes 9 channels .*inpainting"),
    "image editing": (unet(in_channels=8), "takes 8 channels"),
    "learned variance": (unet(out_channels=8), "makes 8"),
    "classes": (unet(num_class_embeds=10), "num_class_embeds is 10"),
    "added embeddings": (unet(**XL), "addition_embed_type is 'text_time'"),
    "guidance embedding": (unet(time_cond_proj_dim=8), "time_cond_proj_dim is 8"),
    "wide text": (unet(cross_attention_dim=48), "text of width 48 and the text_encoder makes 64"),
    "no sample_size": (edit("unet/config.json", sample_size=None), "sample_size is None"),
    "an odd sample_size": (edit("unet/config.json", sample_size=[8]), "sample_size is .8"),
    "a negative sample_size": (edit("unet/config.json", sample_size=-8), "sample_size is -8"),
    "other latents": (vae(latent_channels=8), "the vae's latents have 8"),
    "grey pictures": (vae(in_channels=1, out_channels=1), "takes 1 channels"),
    "no scaling": (edit("vae/config.json", scaling_factor=0), "scaling_factor is 0"),
    "a shift": (edit("vae/config.json", shift_factor=0.1), "shift_factor is 0.1"),
    # The scheduler.
    "predicts the picture": (edit(SCHEDULER, prediction_type="sample"), "'epsilon' or 'v_pred"),
    "flow": (
        both(
            write(SCHEDULER, b'{"_class_name": "FlowMatchEulerDiscreteScheduler"}'),
            edit(INDEX, scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"]),
        ),
        "FlowMatchEulerDiscreteScheduler has no noise levels",
    ),
    "negative betas": (edit(SCHEDULER, beta_start=-0.1, beta_schedule="linear"), "betas are -0.1"),
    "no timesteps": (edit(SCHEDULER, num_train_timesteps=0), "0 betas are none"),
    "noise of noise": (edit(SCHEDULER, rescale_betas_zero_snr=True), "ends without signal"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_folder_that_is_no_model_is_one_line(model: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    damage(model)
    with pytest.raises(UserError, match=message) as caught:
        load(model, device="cpu")
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"model {model}")


ODD: dict[str, Damage] = {
    "buffers of old checkpoints": tensors(
        "text_encoder",
        lambda found: found.update({"embeddings.position_ids": torch.arange(16)[None]}),
    ),
    "float64": tensors(
        "unet", lambda found: found.update({k: v.double() for k, v in found.items()})
    ),
    "default options left out": drop("unet/config.json", "flip_sin_to_cos"),
    "another class of pipeline": edit(INDEX, _class_name="StableDiffusionImg2ImgPipeline"),
    "no vocabulary but in tokenizer.json": remove("tokenizer/vocab.json", "tokenizer/merges.txt"),
    "variant of one part": lambda folder: shutil.copy(
        folder / WEIGHTS["unet"],
        folder / WEIGHTS["unet"].replace(".safetensors", ".ema.safetensors"),
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_only_unusual_is_the_same_model(shapes_model: Any, model: Path, name: str) -> None:
    ODD[name](model)
    found = load(model, device="cpu", variant="ema" if "variant" in name else None)
    assert found.fingerprint == shapes_model.fingerprint
    assert found.parts == shapes_model.parts


def test_a_folder_of_zero_terminal_snr_scores(model: Path) -> None:
    """The last timestep alone too, where z is noise and nothing else."""
    snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    edit(SCHEDULER, prediction_type="v_prediction", **snr)(model)
    found = load(model, device="cpu")
    latents = torch.zeros(1, *found.latent_shape)
    for t_min in (-1, 998):
        values = score(found, ["a red circle"], latents, draws=2, t_min=t_min)
        assert bool(values.isfinite().all())


def test_names_of_folders(shapes_model: Any, model: Path) -> None:
    place = model.rename(model.with_name("mein Modell, größer 模型 #1"))
    link = model.with_name("link")
    link.symlink_to(place)
    assert load(link, device="cpu").fingerprint == shapes_model.fingerprint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "fetch the file again"),
        ("model.ckpt", "other kinds can run code and are never read"),
        ("nowhere", "is not there"),
        ("a/b/c", "is not there"),
        ("", "holds no model_index.json"),
    ],
)
def test_what_is_no_folder(tmp_path: Path, name: str, message: str) -> None:
    for file in ("model.safetensors", "model.ckpt"):
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(UserError, match=message):
        load(tmp_path / name)


def test_a_variant_that_no_part_has(model: Path) -> None:
    with pytest.raises(UserError, match="no weights of the variant 'fp16'"):
        load(model, variant="fp16", device="cpu")


def test_weights_that_half_precision_cannot_hold(model: Path) -> None:
    tensors("unet", lambda found: found.update({"conv_in.bias": torch.full((64,), 1e5)}))(model)
    load(model, device="cpu", precision="bfloat16")
    with pytest.raises(UserError, match="reaches 100000, which float16 cannot hold"):
        load(model, device="cpu", precision="float16")


def test_a_pipeline_is_checked_like_a_folder() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER)
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.bias[0] = torch.nan
    with pytest.raises(UserError, match=r"vae's weight decoder\.conv_out\.bias is not finite"):
        load(pipeline, device="cpu")
    pipeline.vae = None
    with pytest.raises(UserError, match="the vae is missing"):
        load(pipeline, device="cpu")
