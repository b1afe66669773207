"""A UNet as an ONNX file: what TensorRT builds from, and what any other runtime can be asked about
it."""

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mitune.core.errors import UserError

INPUTS = ("z", "t", "text")
OUTPUT = "prediction"


class _Call(nn.Module):
    """The UNet with the three arguments that generation gives it."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
        prediction: Tensor = self.unet(z, t, encoder_hidden_states=text, return_dict=False)[0]
        return prediction


def export_onnx(unet: Any, path: Path, z: Tensor, t: Tensor, text: Tensor) -> None:
    """Write ``unet`` for the shapes and dtypes of these arguments, through torch.export.

    Inputs are named ``z``, ``t`` and ``text``, the output ``prediction``. Equal architectures and
    shapes give equal names inside the file whatever the weights are, which is what a refit goes by.

    Args:
        unet: a diffusers UNet2DConditionModel, also one whose projections are shared.
        path: the file; weights go into ``path`` with ``.data`` appended, since one file ends at
            2 GiB.
        z: ``[B, C, H, W]`` latents.
        t: ``[B]`` float32 timesteps.
        text: ``[B, L, D]`` conditioning.

    Raises:
        UserError: onnx or onnxscript is not installed.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"the ONNX export needs {package}: pip install 'mitune[onnx]'")
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Call(unet).eval(),
            (z, t, text),
            dynamo=True,
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=True)


class _quiet:
    """The exporter's notes on packages that are not needed are no business of the user's."""

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
