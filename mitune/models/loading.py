"""From a diffusers folder or a hub name to a StableDiffusionPipeline whose every weight was read.

diffusers and transformers fill weights that a file lacks with random numbers and tell it in a log.
So each network is loaded by itself, and what its library reports is a refusal here.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mitune.core.errors import UserError

_CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "scheduler": None,
}
"""The parts of a pipeline of Stable Diffusion 1.x and 2.x, and the classes that each may be."""
# They look at decoded pictures; nothing here shows pictures to third parties.
_UNUSED = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
_STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
# Of old files, or of an output that a text-to-image model does not use: no number rests on them.
_HARMLESS = re.compile(r"(^|\.)(position_ids|text_projection\.weight)$")
_INDEX = "model_index.json"


def load_pipeline(source: str | Path, variant: str | None) -> Any:
    """The pipeline, in float32 on the CPU, from safetensors files only.

    Args:
        source: a folder with ``model_index.json``, or a name on the Hugging Face hub (its cache and
            ``HF_HUB_OFFLINE`` are honoured).
        variant: of the weights, such as "fp16"; a part that has none takes its plain ones.

    Raises:
        UserError: no such folder or name; another family; a part that is missing, damaged, or in
            files that are not read; weights that the file lacks, or that the part has no place for.
    """
    # Imported where it is used: it brings every part of diffusers and transformers with it.
    from diffusers import StableDiffusionPipeline

    folder = _folder(source, variant)
    _check_index(source, folder / _INDEX)
    variants = _variants(source, folder, variant)
    networks = {part: _network(source, folder, part, own) for part, own in variants.items()}
    with _told(source, "restore its files"):
        return StableDiffusionPipeline.from_pretrained(
            str(folder), **networks, **_UNUSED, requires_safety_checker=False
        )


@contextmanager
def _told(source: str | Path, mend: str) -> Iterator[None]:
    """An error of the libraries as one line. A damaged folder makes them raise whatever comes."""
    try:
        yield
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise UserError(
            f"model {source} cannot be loaded as a StableDiffusionPipeline ({reason}): expected "
            f"'shapes', a diffusers folder, or a name on the hub that this machine can reach; "
            f"{mend}"
        ) from error


def _folder(source: str | Path, variant: str | None) -> Path:
    """The folder itself, or that of the hub's cache."""
    from diffusers import DiffusionPipeline

    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError(
            f"model {source} is a file: expected a diffusers pipeline folder, with {_INDEX}; "
            "convert it with StableDiffusionPipeline.from_single_file(...).save_pretrained(...)"
        )
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source), re.ASCII) or str(source)[0] == ".":
        raise UserError(
            f"model folder {source} is not there: expected 'shapes', a diffusers folder, or a name "
            "on the hub, such as organisation/name"
        )
    with _told(source, "check its spelling and the network"):
        fetched = DiffusionPipeline.download(
            str(source), use_safetensors=True, variant=variant, **_UNUSED
        )
        return Path(fetched)


def _check_index(source: str | Path, file: Path) -> None:
    """That the folder says of itself that it is a pipeline of this family."""
    if not file.is_file():
        raise UserError(
            f"model folder {source} holds no {_INDEX}: expected a diffusers pipeline folder"
        )
    try:
        index = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"model {source}: {_INDEX} cannot be read ({error}): expected what save_pretrained "
            "writes; restore it"
        ) from error
    index = index if isinstance(index, dict) else {}
    named = {
        name: entry[1]
        for name, entry in index.items()
        if isinstance(entry, list) and len(entry) == 2 and entry[1] is not None
    }
    expected = "expected a StableDiffusionPipeline (1.x or 2.x)"
    own = index.get("_class_name", "pipeline of no class")
    if others := sorted(named.keys() - _CLASSES.keys() - _UNUSED.keys()):
        raise UserError(
            f"model {source} is a {own} with {', '.join(others)}: {expected}; other families are "
            "not supported yet"
        )
    if missing := sorted(_CLASSES.keys() - named.keys()):
        raise UserError(f"model {source} is a {own} without {', '.join(missing)}: {expected}")
    for name, classes in _CLASSES.items():
        if classes and named[name] not in classes:
            raise UserError(
                f"model {source}: its {name} is a {named[name]}: expected {' or '.join(classes)}"
            )


def _variants(source: str | Path, folder: Path, variant: str | None) -> dict[str, str | None]:
    """Of each network, the variant whose files are there and wanted."""
    found: dict[str, str | None] = {}
    for part, stem in _STEMS.items():
        files = sorted(file.name for file in (folder / part).glob("*"))
        plain = any(f"{stem}.safetensors{end}" in files for end in ("", ".index.json"))
        named = re.compile(rf"{stem}\.([^.]+?)(-\d+-of-\d+)?\.safetensors")
        others = list(dict.fromkeys(m[1] for f in files if (m := named.fullmatch(f))))
        found[part] = variant if variant in others else None
        if found[part] is None and not plain:
            raise UserError(f"model {source}: the {part} {_lacking(part, stem, files, others)}")
    if variant is not None and not any(found.values()):
        raise UserError(
            f"model {source} has no weights of the variant {variant!r}: expected files such as "
            f"unet/{_STEMS['unet']}.{variant}.safetensors; leave the variant out for the plain ones"
        )
    return found


def _lacking(part: str, stem: str, files: list[str], variants: list[str]) -> str:
    wanted = f"{part}/{stem}.safetensors"
    if variants:
        return (
            f"has weights of the variant {', '.join(variants)} only: expected {wanted}; give "
            f"--variant {variants[0]} (variant={variants[0]!r} in Python)"
        )
    if pickled := [name for name in files if name.endswith((".bin", ".ckpt", ".pt", ".pth"))]:
        return (
            f"has pickled weights only ({pickled[0]}), which can run code and are never read: "
            f"expected {wanted}; where you trust the file, convert it with "
            "StableDiffusionPipeline.from_pretrained(folder, use_safetensors=False)"
            ".save_pretrained(new_folder)"
        )
    return f"has no weights: expected {wanted}; fetch the model again"


def _network(source: str | Path, folder: Path, part: str, variant: str | None) -> Any:
    """One network, every weight of which came from its file."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    kind: Any = kinds[part]
    with _told(source, f"restore the files in {part}/"):
        made, told = kind.from_pretrained(
            str(folder),
            subfolder=part,
            variant=variant,
            use_safetensors=True,
            output_loading_info=True,
            **{"dtype" if part == "text_encoder" else "torch_dtype": torch.float32},
        )
    faults = []
    for key, what in (
        ("missing_keys", "lacks"),
        ("unexpected_keys", "has no place for"),
        ("mismatched_keys", "has in another shape"),
    ):
        # A mismatched one comes with its shapes.
        keys = sorted(each if isinstance(each, str) else str(each[0]) for each in told[key])
        if keys := [each for each in keys if not _HARMLESS.search(each)]:
            faults.append(f"{what} {len(keys)} weights, such as {keys[0]}")
    if faults:
        raise UserError(
            f"model {source}: the {part} {' and '.join(faults)}: expected the weights that "
            f"{part}/config.json describes, no more and no less; restore the two files"
        )
    return made
