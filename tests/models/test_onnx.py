"""The ONNX export of other denoisers than test_tensorrt's, against torch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sd3_pipeline import sd3_pipeline
from sdxl_pipeline import sdxl_pipeline
from tiny_parts import TEXTS, furthest

import mitune
from mitune.models.protocol import denoiser_of
from mitune.runtime.compile.onnx import export_onnx

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("pipeline", [sdxl_pipeline, sd3_pipeline], ids=["SDXL", "SD3"])
def test_onnxruntime_computes_what_torch_does(tmp_path: Path, pipeline: Any) -> None:
    model = mitune.load(pipeline())
    cond = model.encode_prompts(TEXTS)
    z, t = torch.randn(2, *model.latent_shape), torch.tensor([900.0, 1.0])
    export_onnx(denoiser_of(model), model.call, tmp_path / "network.onnx", z, t, cond)
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    assert [given.name for given in session.get_inputs()] == ["z", "t", *cond]
    for x, at in ((z, t), (torch.randn_like(z), torch.tensor([3.0, 400.0]))):
        inputs = {name: value.numpy() for name, value in {"z": x, "t": at, **cond}.items()}
        (got,) = session.run(["prediction"], inputs)
        with torch.no_grad():
            assert furthest(torch.from_numpy(got), model(x, at, cond)) < 1e-4
