"""Upsampling folded into its convolution, against diffusers' own."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.upsampling import Upsample2D

from mitune.runtime.prepared import Prepared
from mitune.runtime.upsampling import fold_upsampling, transposed


@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (1, 8, 1, 1), (3, 8, 3, 5)])
def test_one_transposed_convolution_is_upsampling_and_convolution(shape):
    """In float64, borders included."""
    torch.manual_seed(0)
    layer = Upsample2D(8, use_conv=True, out_channels=6).double()
    x = torch.randn(shape, dtype=torch.float64)
    got = torch.nn.functional.conv_transpose2d(
        x, transposed(layer.conv.weight), layer.conv.bias, stride=2, padding=1
    )
    torch.testing.assert_close(got, layer(x), rtol=1e-12, atol=1e-12)


def unet(size):
    return UNet2DConditionModel(
        sample_size=size,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=8,
    ).eval()


def test_a_whole_unet_folded_predicts_the_same():
    torch.manual_seed(0)
    plain = unet(8).double()
    folded = copy.deepcopy(plain)
    names = fold_upsampling(folded)
    assert names == {f"up_blocks.{i}.upsamplers.0.conv.weight" for i in (0, 1)}
    weights = plain.state_dict()
    weights |= {name: transposed(weights[name]) for name in names}
    folded.load_state_dict(weights)
    z, text = torch.randn(2, 4, 8, 8).double(), torch.randn(2, 3, 12).double()
    with torch.no_grad():
        torch.testing.assert_close(folded(z, 7, text).sample, plain(z, 7, text).sample)


@pytest.mark.parametrize("size", [6, (8, 10)])
def test_maps_that_are_no_doubles_are_left_alone(size):
    given = unet(size)
    assert fold_upsampling(given) == set()
    assert all(not m.use_conv_transpose for m in given.modules() if isinstance(m, Upsample2D))


def test_an_adapter_of_the_upsampling_convolution_is_taken_over(shapes_model):
    """The compiled engine's copy is set from the model's weights at every refresh."""
    prepared = Prepared(shapes_model, "inductor")
    (name,) = prepared._folded
    layer = shapes_model.unet.get_submodule(name.removesuffix(".weight"))
    before = layer.weight.detach().clone()
    try:
        layer.weight.data.mul_(1.5)
        prepared.refresh()
        torch.testing.assert_close(prepared._weights[name], transposed(layer.weight.detach()))
    finally:
        layer.weight.data.copy_(before)
