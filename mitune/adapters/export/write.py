"""Write an adapter in the format that another program reads, with its metadata and model card."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mitune.adapters import full
from mitune.adapters.adapter_file import (
    FILE,
    NOTES,
    digest,
    read_file,
    resolve,
    run_of,
    to_bytes,
    write_file,
)
from mitune.adapters.export import formats
from mitune.adapters.export.folder import check_new, new_folder
from mitune.adapters.export.layers import Layer, adapted
from mitune.adapters.export.whole_model import merge
from mitune.adapters.model_card import CARD, Form, card, of_adapter
from mitune.core.errors import UserError
from mitune.core.files import atomic_write
from mitune.core.provenance import versions
from mitune.models.protocol import LatentModel

FORMATS = ("diffusers", "comfyui", "kohya", "merged")
"""diffusers: the adapter's own file; comfyui: LoRA or DoRA, exact in ComfyUI; kohya: plain LoRA;
merged: a whole model."""

_USE = """\
Put the .safetensors file into ComfyUI's `models/loras` and load it at strength 1, on {base}."""
_COMFYUI = Form(
    title="Adapter for ComfyUI",
    use=_USE,
    limits=(
        "Exact at strength 1. At another strength k ComfyUI takes W + k (W' - W), which is not "
        "what a scale in diffusers does.",
        "A DoRA in this form is for ComfyUI alone, as it is since April 2025: it divides by the "
        "norm of the base weight there. Other programs drop `dora_scale` or read it otherwise.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        path: the folder.
        file: the weights in it; None for a whole model.
        rank: of the plain LoRA (kohya), the largest of its layers; None for other formats.
        error_largest, error_mean: over the layers, the relative error of the plain LoRA's update
            (Frobenius norms); None for the other formats, which are exact.
    """

    path: Path
    file: Path | None
    rank: int | None = None
    error_largest: float | None = None
    error_mean: float | None = None


def check_request(
    adapter: Path | str, out: Path | str, format: str, rank: int | None = None
) -> None:
    """Check what can be checked before a model is loaded.

    Raises:
        UserError: an unknown format; a rank below 1, or with a format other than kohya; no adapter;
            a full fine-tuning with a format other than merged; or ``out`` is there and not empty.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r} is not known: choose one of {', '.join(FORMATS)}")
    if rank is not None and format != "kohya":
        raise UserError(f"rank is given with the format {format}: expected it with kohya alone")
    if rank is not None and rank < 1:
        raise UserError(f"rank is {rank}: expected at least 1")
    resolve(adapter)
    if format != "merged" and full.found(adapter):
        raise UserError(
            f"{adapter} holds a whole denoiser, of method full: expected an adapter for the format "
            f"{format}; choose merged"
        )
    check_new(Path(out))


def export_adapter(
    model: LatentModel,
    adapter: Path | str,
    out: Path | str,
    format: str,
    *,
    rank: int | None = None,
) -> Exported:
    """Write ``adapter`` as ``format`` into the new folder ``out``, with a README.md.

    The file of weights is ``OUT/OUT.safetensors`` for comfyui and kohya, as those programs show
    people the file's name, and ``pytorch_lora_weights.safetensors`` for diffusers. Its header
    records the base model, its fingerprint, the run, the settings and the set; for comfyui and
    kohya also the format and mitune's version. Equal adapters give equal bytes; the folder appears
    whole or not at all.

    Args:
        model: the base, in float32 and without an adapter; unchanged.
        adapter: its folder or file, of ``mitune.tune`` or another trainer in diffusers' layout.
        out: absent or empty.
        format: one of FORMATS.
        rank: of the plain LoRA (kohya); None takes twice a DoRA's rank, and a LoRA's own.

    Raises:
        UserError: as ``check_request``; a model family without this format; an adapter of another
            model or that does not fit; one with values that are not finite; a disk that cannot be
            written.
    """
    check_request(adapter, out, format, rank)
    if format in ("comfyui", "kohya") and format not in model.export_prefixes:
        raise UserError(
            f"model {model.name} is of a family without a {format} form here: expected diffusers "
            "or merged"
        )
    if format == "merged":
        return Exported(path=merge(model, adapter, out), file=None)
    place, content = Path(out), read_file(adapter)
    run = run_of(adapter)
    notes = {"model": model.name, "fingerprint": model.fingerprint} | content.notes
    with adapted(model, adapter, format) as layers, new_folder(place) as folder:
        if format == "diffusers":
            # An adapter of ours has its notes already, and is written byte for byte.
            write_file(folder, content.parts, notes)
            atomic_write(folder / CARD, card(run, of_adapter(model.pipeline), base=model.name))
            return Exported(path=place, file=place / FILE)
        file = place / f"{place.resolve().name}.safetensors"
        notes |= {"adapter": digest(adapter), "format": format, "mitune": versions()["mitune"]}
        done, form = Exported(path=place, file=file), _COMFYUI
        if format == "comfyui":
            tensors = formats.comfyui(layers)
        else:
            plain = formats.kohya(layers, rank)
            tensors = plain.tensors
            found = _quality(plain, layers)
            notes |= found
            done, form = Exported(path=place, file=file, **found), _kohya(found, len(layers))
        _write(folder / file.name, tensors, notes)
        atomic_write(folder / CARD, card(run, form, base=model.name))
        return done


def _quality(plain: formats.Approximation, layers: Sequence[Layer]) -> dict[str, Any]:
    errors = list(plain.errors.values())
    downs = [value for key, value in plain.tensors.items() if key.endswith(".lora_down.weight")]
    return {
        "rank": max(down.shape[0] for down in downs),
        "error_largest": max(errors),
        "error_mean": sum(errors) / len(errors),
    }


def _kohya(found: Mapping[str, Any], layers: int) -> Form:
    return Form(
        title="Adapter as plain LoRA",
        use=f"{_USE}\nOther programs that read kohya's LoRA files take it too, and so does "
        "diffusers' `load_lora_weights`.",
        limits=(
            f"It holds the adapter's change of the weights to rank {found['rank']}, as well as "
            f"that rank can: the relative error (Frobenius norm) is {found['error_mean']:.3g} on "
            f"average over {layers} layers, {found['error_largest']:.3g} at most.",
        ),
    )


def _write(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    broken = next((key for key, value in tensors.items() if not value.isfinite().all()), None)
    if broken is not None:
        raise UserError(
            f"the adapter's {broken} is not finite: expected numbers; it is damaged, train it again"
        )
    header = {"format": "pt", NOTES: json.dumps(dict(notes), sort_keys=True)}
    atomic_write(path, to_bytes(tensors, header))
