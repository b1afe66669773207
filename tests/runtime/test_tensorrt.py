"""The ONNX export against torch, and TensorRT's backend with onnxruntime in TensorRT's place."""

import sys

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_model import TinyModel, config, scramble

from mitune.adapters import adapter
from mitune.core.errors import UserError
from mitune.models.stable_diffusion.model import TEXT
from mitune.runtime.backends import run_by
from mitune.runtime.compile.onnx import export_onnx
from mitune.runtime.compile.tensorrt import TensorRT
from mitune.runtime.prepared import Prepared

onnxruntime = pytest.importorskip("onnxruntime")
TEXTS = ["a red circle", "a blue square", ""]


def small(**changes):
    """An architecture of Stable Diffusion's kind: two levels, one of them without attention."""
    torch.manual_seed(3)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        mid_block_type=None,  # the less to export
        norm_num_groups=8,
        cross_attention_dim=12,
        **changes,
    ).eval()


SD1 = {"attention_head_dim": 8}
SD2 = {"attention_head_dim": (2, 4), "use_linear_projection": True}


@pytest.mark.parametrize("changes", [SD1, SD2], ids=["1.x", "2.x"])
def test_onnxruntime_computes_what_torch_does(tmp_path, changes):
    unet = small(**changes)
    z, t, text = torch.randn(2, 4, 8, 8), torch.tensor([981.0, 1.0]), torch.randn(2, 5, 12)
    export_onnx(unet, TinyModel().call, tmp_path / "unet.onnx", z, t, {TEXT: text})
    session = onnxruntime.InferenceSession(tmp_path / "unet.onnx")
    assert [i.name for i in session.get_inputs()] == ["z", "t", TEXT]
    for x, at in ((z, t), (torch.randn_like(z), torch.tensor([3.0, 400.0]))):
        given = {"z": x.numpy(), "t": at.numpy(), TEXT: text.numpy()}
        (got,) = session.run(["prediction"], given)
        with torch.no_grad():
            expected = unet(x, at, text, return_dict=False)[0]
        torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def fake(monkeypatch):
    import fake_tensorrt

    fake_tensorrt.built.clear()
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    return fake_tensorrt


def prepared(model, folder):
    """As ``Prepared(model, "tensorrt")`` on a GPU."""
    made = Prepared(model)
    made._run = TensorRT(made.network, made._call, folder)
    return made


def call(denoise, rows=3):
    z = torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([1.0, 500.0, 981.0])[:rows]
    with torch.no_grad():
        return denoise(z, t, denoise.encode_prompts(TEXTS[:rows]))


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_an_engine_for_each_shape_and_new_weights_without_a_build(fake, tmp_path):
    model = TinyModel(middle=False)
    made = prepared(model, tmp_path)
    close(call(made), call(model))
    close(call(made, rows=2), call(model, rows=2))
    close(call(made), call(model))
    assert len(fake.built) == len(list(tmp_path.glob("*.engine"))) == 2
    before = call(made)
    adapter.attach(model, config())
    scramble(model.unet)
    assert torch.equal(call(made), before)
    made.refresh()
    close(call(made), call(model))
    assert not torch.allclose(call(made), before, atol=1e-3)
    assert len(fake.built) == 2


def test_a_kept_engine_gets_the_weights_of_the_model_that_uses_it(fake, tmp_path):
    call(prepared(TinyModel(middle=False, weights=0), tmp_path))
    other = TinyModel(middle=False, weights=1)
    close(call(prepared(other, tmp_path)), call(other))
    assert len(fake.built) == 1


def test_an_engine_that_computes_something_else_is_not_used(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(fake.Refitter, "refit_cuda_engine", lambda self: True)  # and does nothing
    model = TinyModel(middle=False)
    made = prepared(model, tmp_path)
    call(made)
    adapter.attach(model, config())
    scramble(model.unet)
    with pytest.raises(RuntimeError, match="differs from torch by"):
        made.refresh()


def test_what_tensorrt_refuses_is_said(fake, tmp_path, monkeypatch):
    model = TinyModel(middle=False)
    made = prepared(model, tmp_path)
    call(made)
    monkeypatch.setattr(fake.OnnxParserRefitter, "refit_from_file", lambda self, path: False)
    made.refresh()  # nothing is new
    adapter.attach(model, config())
    scramble(model.unet)
    with pytest.raises(RuntimeError, match="did not take the new weights: the initializers have"):
        made.refresh()
    (kept,) = tmp_path.glob("*.engine")
    kept.write_bytes(b"broken")
    with pytest.raises(RuntimeError, match="cannot read its engine; remove it"):
        call(prepared(TinyModel(middle=False), tmp_path))


def test_where_there_is_no_tensorrt_or_no_gpu(tmp_path):
    model = TinyModel(middle=False)
    with pytest.raises(UserError, match=r"pip install 'mitune\[tensorrt\]'"):
        TensorRT(model.unet, model.call, tmp_path)
    with pytest.raises(UserError, match="needs a GPU and the model is on the cpu"):
        run_by("tensorrt", model.unet, model.call)
