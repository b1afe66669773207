"""Full fine-tuning, the control: all weights of the UNet train, and a UNet is the result.

It stands wherever an adapter may: the tuned weights then take the place of the UNet's own, which
are kept until it is taken off. The folder ``unet`` is diffusers' own.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mitune.adapters.adapter_config import check_finite, misfit
from mitune.adapters.adapter_file import FULL, NOTES, to_bytes
from mitune.core.errors import UserError
from mitune.core.files import make_folder, publish

# The plain weights of each UNet that carries tuned ones. Not on the UNet: copies of it need none.
_PLAIN: WeakKeyDictionary[nn.Module, dict[str, Tensor]] = WeakKeyDictionary()


def found(path: Path | str) -> Path | None:
    """The file of weights in a folder of this kind; None where there is none."""
    file = Path(path) / FULL
    return file if file.is_file() else None


def begin(unet: nn.Module) -> None:
    """Let all weights train, in place.

    Raises:
        UserError: weights in half precision, in which an update is lost in rounding.
    """
    _need_float32(unet)
    _PLAIN[unet] = _copy(unet)
    unet.requires_grad_(True)


def load(unet: nn.Module, file: Path, *, trainable: bool = False) -> None:
    """Put a file's weights in the place of the UNet's own.

    Raises:
        UserError: they are not those of such a UNet, or are to be trained in half precision.
    """
    tensors = _read(file)
    if trainable:
        _need_float32(unet)
    plain = _copy(unet)
    _assign(unet, tensors, file)
    _PLAIN[unet] = plain
    unet.requires_grad_(trainable)


def restore(unet: nn.Module, file: Path) -> None:
    """Copy a file's weights into a UNet that carries tuned ones. Raises UserError as ``load``."""
    _assign(unet, _read(file), file)


def notes(file: Path) -> dict[str, Any]:
    """What ``save`` was given. Raises UserError for a UNet that was not saved by it."""
    with _opened(file) as content:
        noted = json.loads((content.metadata() or {}).get(NOTES, "{}"))
    if not isinstance(noted, dict) or not noted.get("fingerprint"):
        raise UserError(
            f"{file} does not say which model it was tuned from: expected what `mitune tune "
            "--method full` wrote; a whole model is given as --model"
        )
    return noted


def save(unet: Any, folder: Path, metadata: Mapping[str, Any]) -> Path:
    """Write ``folder/unet``, which ``UNet2DConditionModel.from_pretrained(folder / "unet")`` reads;
    the weights appear whole or not at all, and last. Equal weights give equal bytes.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    file = folder / FULL
    make_folder(file.parent)
    publish(file.parent / "config.json", unet.to_json_string().encode())
    header = {"format": "pt", NOTES: json.dumps(dict(metadata), sort_keys=True)}
    publish(file, to_bytes(unet.state_dict(), header))
    return file


def strip(unet: nn.Module) -> None:
    """Put the UNet's own weights back, to the bit; nothing where it has them."""
    plain = _PLAIN.pop(unet, None)
    if plain is not None:
        unet.load_state_dict(plain)
        unet.requires_grad_(False)


def carried(unet: nn.Module) -> bool:
    """Whether the UNet carries tuned weights."""
    return unet in _PLAIN


def _copy(unet: nn.Module) -> dict[str, Tensor]:
    # On the host: a GPU's memory is for what trains.
    return {name: t.detach().to("cpu", copy=True) for name, t in unet.state_dict().items()}


def _assign(unet: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> None:
    own = unet.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in own or name not in tensors:
            raise misfit(file, f"{name} is {'absent' if name in own else 'not expected'}")
        if own[name].shape != tensors[name].shape:
            raise misfit(
                file, f"{name} is {list(tensors[name].shape)}, expected {list(own[name].shape)}"
            )
    unet.load_state_dict(tensors)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as content:
            yield content
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read ({error}): expected a whole safetensors file; restore it or "
            "train it anew"
        ) from error


def _read(file: Path) -> dict[str, Tensor]:
    with _opened(file) as content:
        tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
    check_finite(f"{file}", tensors)
    return tensors


def _need_float32(unet: nn.Module) -> None:
    kinds = {parameter.dtype for parameter in unet.parameters() if parameter.dtype.itemsize < 4}
    if kinds:
        raise UserError(
            f"method full trains weights in {kinds.pop()}, whose rounding swallows the updates: "
            "expected float32; load the model with precision float32 or bf16-mixed"
        )
