"""The file of an adapter: safetensors in diffusers' layout, with notes in its header."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mitune.errors import UserError
from mitune.sets.files import make_folder, publish

FILE = "pytorch_lora_weights.safetensors"
"""Name of the adapter's file in its folder: the one ``load_lora_weights`` looks for."""

NOTES = "mitune"
"""Entry of the header that holds the notes, as JSON."""

_UNET = "unet."
# What of peft's LoraConfig decides the weights. Only this is written: the LoraConfig of another
# peft version refuses fields it does not know, and these every version knows.
_FIELDS = (
    "r",
    "lora_alpha",
    "target_modules",
    "rank_pattern",
    "alpha_pattern",
    "use_dora",
    "use_rslora",
)
_SUFFIXES = (".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector")


@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """What a file holds.

    Attributes:
        path: of the file.
        tensors: A ``[rank, in]``, B ``[out, rank]`` and for DoRA the magnitude ``[out]`` of each
            layer, under peft's names without the adapter's.
        config: peft's configuration.
        notes: what was given to ``write_file``; empty for files of other programs.
    """

    path: Path
    tensors: dict[str, Tensor]
    config: LoraConfig
    notes: dict[str, Any]

    @property
    def layers(self) -> set[str]:
        """Names of the adapted layers in the UNet."""
        return {_layer(key) for key in self.tensors}


def resolve(path: Path | str) -> Path:
    """The adapter's file for a folder or file. Raises UserError when there is none."""
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UserError(
            f"adapter {path} is not there: expected a folder with {FILE} or a .safetensors file"
        )
    return file


def digest(path: Path | str) -> str:
    """SHA-256 of the adapter's file, hexadecimal: what identifies it in the settings of a run."""
    return hashlib.sha256(resolve(path).read_bytes()).hexdigest()


def read_file(path: Path | str) -> AdapterFile:
    """Read an adapter of a UNet in diffusers' layout; nothing in the file is ever executed.

    Args:
        path: a folder with ``pytorch_lora_weights.safetensors``, or a safetensors file.

    Raises:
        UserError: no such file, not a whole safetensors file, or one that holds something else.
    """
    file = resolve(path)
    try:
        with safe_open(file, framework="pt") as content:
            header = dict(content.metadata() or {})
            stored = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"adapter {file} cannot be read ({error}): expected a whole safetensors file; "
            "restore it or train it anew"
        ) from error
    foreign = next((key for key in stored if not key.startswith(_UNET)), None)
    if foreign is not None or not stored:
        raise UserError(
            f"adapter {file} holds {foreign or 'nothing'}: expected an adapter of a UNet alone in "
            "diffusers' layout, its tensors named unet.<layer>.lora..."
        )
    tensors: dict[str, Tensor] = convert_unet_state_dict_to_peft(
        {key.removeprefix(_UNET): value for key, value in stored.items()}
    )
    unknown = next((key for key in tensors if not key.endswith(_SUFFIXES)), None)
    if unknown is not None:
        raise misfit(file, f"{unknown} is no part of a LoRA or DoRA adapter")
    described = _entry(file, header, LORA_ADAPTER_METADATA_KEY)
    fields = {name: described[_UNET + name] for name in _FIELDS if _UNET + name in described}
    try:
        config = LoraConfig(**(fields or _inferred(tensors)))
    except (TypeError, ValueError) as error:
        raise misfit(file, f"peft refuses its settings: {error}") from error
    return AdapterFile(path=file, tensors=tensors, config=config, notes=_entry(file, header, NOTES))


def write_file(
    folder: Path, tensors: Mapping[str, Tensor], config: LoraConfig, notes: Mapping[str, Any]
) -> Path:
    """Write an adapter, whole or not at all; equal arguments give equal bytes.

    Args:
        folder: created if absent.
        tensors: as ``get_peft_model_state_dict`` names them.
        config: peft's configuration; its fields go where diffusers looks for them, so that alpha
            other than rank survives.
        notes: plain JSON.

    Returns:
        The file.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    settings = config.to_dict()
    described = {_UNET + name: _plain(settings[name]) for name in _FIELDS}
    header = {
        "format": "pt",
        LORA_ADAPTER_METADATA_KEY: json.dumps(described, sort_keys=True),
        NOTES: json.dumps(dict(notes), sort_keys=True),
    }

    def write(weights: Mapping[str, Tensor], filename: str) -> None:
        publish(Path(filename), to_bytes(weights, header))

    make_folder(folder)
    # Not by diffusers' convert_state_dict_to_diffusers: it renames the attention projections alone,
    # and of a file with names of both kinds diffusers loads one kind, with no more than a warning.
    renamed = {
        key.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up."): value
        for key, value in tensors.items()
    }
    StableDiffusionLoraLoaderMixin.save_lora_weights(
        folder,
        unet_lora_layers=renamed,
        weight_name=FILE,
        save_function=write,
    )
    return folder / FILE


def misfit(file: Path, what: str) -> UserError:
    """The error of a file whose adapter is not one for the UNet at hand; of ``what``, line one."""
    return UserError(
        f"adapter {file} does not fit ({what.splitlines()[0]}): expected an adapter of this "
        "model's UNet; load the model it was trained on, or train it anew"
    )


def to_bytes(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """A safetensors file; equal arguments give equal bytes."""
    on_host = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    content = save(on_host, metadata=dict(header))
    # safetensors writes the notes in an order that changes from call to call; a file's hash is what
    # tells a later run that it starts from the same adapter.
    size = int.from_bytes(content[:8], "little")
    index = json.loads(content[8 : 8 + size])
    index["__metadata__"] = dict(sorted(index["__metadata__"].items()))
    text = json.dumps(index, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _inferred(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    # No configuration in the header: diffusers then takes alpha = rank, layer by layer.
    ranks = {_layer(k): v.shape[0] for k, v in tensors.items() if k.endswith(".lora_A.weight")}
    if not ranks:
        raise ValueError("there are no low-rank matrices")
    first = next(iter(ranks.values()))
    others = {name: rank for name, rank in ranks.items() if rank != first}
    return {
        "r": first,
        "lora_alpha": first,
        "rank_pattern": others,
        "alpha_pattern": dict(others),
        "target_modules": sorted(ranks),
        "use_dora": any(key.endswith(".lora_magnitude_vector") for key in tensors),
    }


def _entry(file: Path, header: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        found = json.loads(header.get(key, "{}"))
    except ValueError as error:
        raise misfit(file, f"its header entry {key} is not JSON") from error
    if not isinstance(found, dict):
        raise misfit(file, f"its header entry {key} is no record")
    return found


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, set) else value


def _layer(key: str) -> str:
    return key.rsplit(".lora_", 1)[0]
