"""Full fine-tuning, the control: all weights of the denoiser train, and the result is a denoiser.

It works wherever an adapter does: the tuned weights replace the network's own, which are kept until
the tuned ones are taken off. The result's folder, ``unet`` or ``transformer``, is diffusers' own.
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
from mitune.adapters.names import DENOISERS
from mitune.core.errors import UserError
from mitune.core.files import atomic_write, make_folder

# The plain weights of each denoiser that carries tuned ones. Not stored on the network, because
# copies of it need none.
_PLAIN: WeakKeyDictionary[nn.Module, dict[str, Tensor]] = WeakKeyDictionary()


def found(path: Path | str) -> Path | None:
    """The file of weights in the folder of a full fine-tuning; None if there is none."""
    files = (Path(path) / name / FULL for name in DENOISERS)
    return next((file for file in files if file.is_file()), None)


def begin(network: nn.Module) -> None:
    """Let all weights train, in place.

    Raises:
        UserError: weights in half precision, where rounding loses the updates.
    """
    _need_float32(network)
    _PLAIN[network] = _copy(network)
    network.requires_grad_(True)


def load(network: nn.Module, file: Path, *, trainable: bool = False) -> None:
    """Replace the network's own weights by those of a file.

    Raises:
        UserError: the weights do not fit the network, or are to be trained in half precision.
    """
    tensors = _read(file)
    if trainable:
        _need_float32(network)
    plain = _copy(network)
    _assign(network, tensors, file)
    _PLAIN[network] = plain
    network.requires_grad_(trainable)


def restore(network: nn.Module, file: Path) -> None:
    """Copy a file's weights into a network that carries tuned ones. Raises UserError as
    ``load``."""
    _assign(network, _read(file), file)


def notes(file: Path) -> dict[str, Any]:
    """The metadata given to ``save``. Raises UserError for a network that it did not write."""
    with _opened(file) as content:
        noted = json.loads((content.metadata() or {}).get(NOTES, "{}"))
    if not isinstance(noted, dict) or not noted.get("fingerprint"):
        raise UserError(
            f"{file} does not say which model it was tuned from: expected what `mitune tune "
            "--method full` wrote; a whole model is given as --model"
        )
    return noted


def save(network: Any, folder: Path, metadata: Mapping[str, Any], *, name: str) -> Path:
    """Write ``folder/name``, for ``from_pretrained(folder / name)`` of the network's class. The
    weights are written last, whole or not at all. Equal weights give equal bytes.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    file = folder / name / FULL
    make_folder(file.parent)
    atomic_write(file.parent / "config.json", network.to_json_string().encode())
    header = {"format": "pt", NOTES: json.dumps(dict(metadata), sort_keys=True)}
    atomic_write(file, to_bytes(network.state_dict(), header))
    return file


def strip(network: nn.Module) -> None:
    """Put the network's own weights back, to the bit; does nothing if it has them."""
    plain = _PLAIN.pop(network, None)
    if plain is not None:
        network.load_state_dict(plain)
        network.requires_grad_(False)


def carried(network: nn.Module) -> bool:
    """Whether the network carries tuned weights."""
    return network in _PLAIN


def _copy(network: nn.Module) -> dict[str, Tensor]:
    # On the host: the GPU's memory is for training.
    return {name: t.detach().to("cpu", copy=True) for name, t in network.state_dict().items()}


def _assign(network: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> None:
    own = network.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in own or name not in tensors:
            raise misfit(file, f"{name} is {'absent' if name in own else 'not expected'}")
        if own[name].shape != tensors[name].shape:
            raise misfit(
                file, f"{name} is {list(tensors[name].shape)}, expected {list(own[name].shape)}"
            )
    network.load_state_dict(tensors)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as content:
            yield content
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read ({error}): expected a whole safetensors file; restore it or "
            "train it again"
        ) from error


def _read(file: Path) -> dict[str, Tensor]:
    with _opened(file) as content:
        tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
    check_finite(f"{file}", tensors)
    return tensors


def _need_float32(network: nn.Module) -> None:
    kinds = {parameter.dtype for parameter in network.parameters() if parameter.dtype.itemsize < 4}
    if kinds:
        raise UserError(
            f"method full trains weights in {kinds.pop()}, whose rounding swallows the updates: "
            "expected float32; load the model with precision float32 or bf16-mixed"
        )
