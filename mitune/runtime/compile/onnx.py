"""A denoiser as an ONNX file: TensorRT builds its engine from it, and any other runtime can run
it."""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mitune.core.errors import UserError
from mitune.models.protocol import Conditioning

OUTPUT = "prediction"


class _Call(nn.Module):
    """The denoiser with the arguments that generation gives it, all of them tensors."""

    def __init__(self, network: Any, call: Callable[..., Tensor], names: Sequence[str]) -> None:
        super().__init__()
        self.network, self._call, self._names = network, call, list(names)

    def forward(self, z: Tensor, t: Tensor, *cond: Tensor) -> Tensor:
        return self._call(self.network, z, t, dict(zip(self._names, cond, strict=True)))


def inputs(cond: Conditioning) -> tuple[str, ...]:
    """Names of the file's inputs: z, t, and each conditioning tensor by its name."""
    return "z", "t", *cond


def export_onnx(
    network: Any, call: Callable[..., Tensor], path: Path, z: Tensor, t: Tensor, cond: Conditioning
) -> None:
    """Write ``network`` for the shapes and dtypes of these arguments, through torch.export.

    Inputs are named as in ``inputs``, the output ``prediction``. Equal architectures and shapes
    give equal names inside the file whatever the weights are; a refit relies on this.

    Args:
        network: a denoiser; its projections may be shared.
        call: of its family, with the arguments ``(network, z, t, cond)``.
        path: the file; weights go into ``path`` with ``.data`` appended, since one file is limited
            to 2 GiB.
        z: ``[B, ...]`` latents.
        t: ``[B]`` float32 timesteps.
        cond: conditioning of B rows.

    Raises:
        UserError: onnx or onnxscript is not installed.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"the ONNX export needs {package}: pip install 'mitune[onnx]'")
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Call(network, call, list(cond)).eval(),
            (z, t, *cond.values()),
            dynamo=True,
            input_names=list(inputs(cond)),
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=True)


class _quiet:
    """Hides the exporter's notes on packages that are not needed."""

    def __enter__(self) -> None:
        self._log = logging.getLogger("torch.onnx")
        self._level = self._log.level
        self._log.setLevel(logging.ERROR)
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *reason: Any) -> None:
        self._warnings.__exit__(*reason)
        self._log.setLevel(self._level)
