"""The file of an adapter: safetensors in diffusers' layout, with notes in its header."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mitune.adapters.adapter_config import check_tensors, describe, misfit, parse_config
from mitune.adapters.names import DENOISERS, NETWORKS, as_diffusers, as_peft
from mitune.core.errors import UserError
from mitune.core.files import atomic_write, make_folder

FILE = "pytorch_lora_weights.safetensors"
"""Name of the adapter's file in its folder; ``load_lora_weights`` looks for this name."""

FULL = "diffusion_pytorch_model.safetensors"
"""Name of the file that a full fine-tuning writes instead, in a folder with the network's name: a
whole denoiser, under diffusers' name."""

NOTES = "mitune"
"""Entry of the header with the notes, as JSON."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The adapter of one network.

    Attributes:
        tensors: A ``[rank, in]``, B ``[out, rank]`` and for DoRA the magnitude ``[out]`` of each
            layer (for a convolution also with the kernel's dimensions), under peft's names without
            the adapter's name.
        config: peft's configuration.
    """

    tensors: dict[str, Tensor]
    config: LoraConfig

    @property
    def layers(self) -> set[str]:
        """Names of the adapted layers in the network."""
        return {_layer(key) for key in self.tensors}


@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """The content of an adapter's file.

    Attributes:
        path: of the file.
        parts: by network, a name in ``mitune.adapters.names.NETWORKS``; at least one.
        notes: what was given to ``write_file``; empty for files of other programs.
    """

    path: Path
    parts: dict[str, Part]
    notes: dict[str, Any]

    def part(self, network: str) -> Part:
        """The adapter of one network. Raises UserError if the file holds none."""
        if network not in self.parts:
            raise misfit(self.path, f"it holds nothing for the {network}")
        return self.parts[network]


def resolve(path: Path | str) -> Path:
    """The file of an adapter, or of a full fine-tuning, for a folder or file. Raises UserError if
    there is none."""
    place = Path(path)
    whole = [place / name / FULL for name in DENOISERS]
    for file in (place / FILE, *whole) if place.is_dir() else (place,):
        if file.is_file():
            return file
    raise UserError(
        f"adapter {path} is not there: expected a folder with {FILE} or a .safetensors file"
    )


def run_of(path: Path | str) -> Path:
    """The folder of an adapter that is given by folder or file."""
    return Path(path) if Path(path).is_dir() else Path(path).parent


def digest(path: Path | str) -> str:
    """SHA-256 of the adapter's file, hexadecimal; identifies the adapter in a run's settings."""
    return hashlib.sha256(resolve(path).read_bytes()).hexdigest()


def read_file(path: Path | str) -> AdapterFile:
    """Read an adapter in diffusers' layout; nothing in the file is ever executed.

    Args:
        path: a folder with ``pytorch_lora_weights.safetensors``, or a safetensors file.

    Raises:
        UserError: no such file, not a complete safetensors file, or one that holds something else.
    """
    file = resolve(path)
    try:
        with safe_open(file, framework="pt") as content:
            header = dict(content.metadata() or {})
            stored = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"adapter {file} cannot be read ({error}): expected a whole safetensors file; "
            "restore it or train it again"
        ) from error
    known = tuple(f"{network}." for network in NETWORKS)
    foreign = next((key for key in stored if not key.startswith(known)), None)
    if foreign is not None or not stored:
        raise UserError(
            f"adapter {file} holds {foreign or 'nothing'}: expected an adapter in diffusers' "
            "layout, its tensors named unet.<layer>.lora..., transformer.<layer>.lora... or "
            "text_encoder.<layer>.lora..."
        )
    described = _entry(file, header, LORA_ADAPTER_METADATA_KEY)
    parts = {}
    for network in NETWORKS:
        own, about = _below(network, stored), _below(network, described)
        if own:
            parts[network] = _part(file, network, own, about)
        elif about:
            raise misfit(file, f"its header describes a {network}, of which it holds no tensors")
    unclear = set(described) - {
        f"{name}.{key}" for name in parts for key in _below(name, described)
    }
    if unclear:
        raise misfit(file, f"its header says {min(unclear)}, of no network here")
    return AdapterFile(path=file, parts=parts, notes=_entry(file, header, NOTES))


def _part(
    file: Path, network: str, stored: Mapping[str, Tensor], described: Mapping[str, Any]
) -> Part:
    tensors = as_peft(network, stored)
    if len(tensors) < len(stored):
        raise misfit(file, f"of {len(stored)} tensors of the {network} some are there twice")
    check_tensors(file, tensors)
    return Part(tensors=tensors, config=parse_config(file, described, _inferred(tensors)))


def write_file(folder: Path, parts: Mapping[str, Part], notes: Mapping[str, Any]) -> Path:
    """Write an adapter, whole or not at all; equal arguments give equal bytes.

    Args:
        folder: created if absent.
        parts: by network, as in ``AdapterFile``. The fields of peft's configuration go where
            diffusers looks for them, so that an alpha other than the rank is not lost.
        notes: plain JSON.

    Returns:
        The file.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    described = {
        f"{network}.{name}": value
        for network, part in parts.items()
        for name, value in describe(part.config).items()
    }
    header = {
        "format": "pt",
        LORA_ADAPTER_METADATA_KEY: json.dumps(described, sort_keys=True),
        NOTES: json.dumps(dict(notes), sort_keys=True),
    }

    tensors = {
        f"{network}.{key}": value
        for network, part in parts.items()
        for key, value in as_diffusers(network, part.tensors).items()
    }
    make_folder(folder)
    atomic_write(folder / FILE, to_bytes(tensors, header))
    return folder / FILE


def to_bytes(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """Serialize tensors as a safetensors file; equal arguments give equal bytes."""
    on_host = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    content = save(on_host, metadata=dict(header))
    # safetensors orders the header's metadata differently from call to call; but a file's hash
    # tells a later run that it starts from the same adapter.
    size = int.from_bytes(content[:8], "little")
    index = json.loads(content[8 : 8 + size])
    index["__metadata__"] = dict(sorted(index["__metadata__"].items()))
    text = json.dumps(index, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _inferred(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    # Without a configuration in the header, diffusers takes alpha = rank, layer by layer.
    downs = {_layer(k): v for k, v in tensors.items() if k.endswith(".lora_A.weight")}
    ranks = {name: down.shape[0] if down.dim() else 0 for name, down in downs.items()}
    first = next(iter(ranks.values()), 0)
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
    except (ValueError, RecursionError) as error:
        raise misfit(file, f"its header entry {key} is not JSON") from error
    if not isinstance(found, dict):
        raise misfit(file, f"its header entry {key} is no record")
    return found


def _below(network: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    start = f"{network}."
    return {k.removeprefix(start): v for k, v in entries.items() if k.startswith(start)}


def _layer(key: str) -> str:
    return key.rsplit(".lora_", 1)[0]
