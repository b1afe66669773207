"""The UNet called in pairs against the UNet called with all rows."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from mitune.runtime.cfg_batch import share_prefix
from mitune.runtime.mixed_precision import HalfProducts, Pairing
from mitune.runtime.prepared import Prepared

FIRST_WITH_ATTENTION = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
FIRST_WITHOUT = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")


def unet(blocks):
    torch.manual_seed(3)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=2,
        down_block_types=blocks[0],
        up_block_types=blocks[1],
        norm_num_groups=8,
        cross_attention_dim=12,
        attention_head_dim=8,
    ).eval()


@pytest.mark.parametrize("blocks", [FIRST_WITH_ATTENTION, FIRST_WITHOUT])
def test_latents_once_and_text_twice_predict_what_all_rows_do(blocks):
    """In float64, to rounding; and what precedes the text is computed once."""
    plain = unet(blocks).double()
    shared = copy.deepcopy(plain)
    pairing = share_prefix(shared)
    rows = []
    with_attention = shared.down_blocks[0 if blocks is FIRST_WITH_ATTENTION else 1]
    first = with_attention.attentions[0].transformer_blocks[0]
    for module in (
        shared.down_blocks[0].resnets[0],
        first.attn1.to_q,
        first.attn2.to_q,
        shared.mid_block.resnets[0],
        shared.conv_out,
    ):
        module.register_forward_hook(lambda module, given, made: rows.append(len(made)))
    z, t = torch.randn(3, 4, 8, 8, dtype=torch.float64), torch.tensor([1.0, 500.0, 981.0])
    text = torch.randn(6, 5, 12, dtype=torch.float64)
    with torch.no_grad():
        expected = plain(torch.cat([z, z]), torch.cat([t, t]), text, return_dict=False)[0]
        pairing.tell(len(z), len(text))
        got = shared(z, t, text, return_dict=False)[0]
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
        assert rows == [3, 3, 6, 6, 6]
        # And a call of another kind after it is what it was.
        pairing.tell(len(z), len(z))
        one = shared(z, t, text[:3], return_dict=False)[0]
        torch.testing.assert_close(one, plain(z, t, text[:3], return_dict=False)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_a_small_difference_of_large_rows_survives_half_products(kind, bias, dtype):
    """The error of L(c) - L(u) is of the size of half precision times c - u, however large u is;
    without the pairing it is of the size of half precision times u."""
    torch.manual_seed(0)
    if kind == "linear":
        layer, shape = nn.Linear(64, 48, bias=bias), (8, 64)
    else:
        layer, shape = nn.Conv2d(8, 12, 3, padding=1, stride=2, bias=bias), (8, 8, 6, 6)
    u, d = 30 * torch.randn(shape), 1e-3 * torch.randn(shape)
    exact = copy.deepcopy(layer).double()
    errors = {}
    for rows in (16, 0):
        pairing = Pairing()
        pairing.rows = rows
        with torch.no_grad():
            given = torch.cat([u, u + d])
            got = HalfProducts(copy.deepcopy(layer), dtype, pairing)(given)
            # The float32 sum u + d is what the layer is given, its own rounding apart.
            true = exact(given.double())
        assert got.dtype == torch.float32
        difference = (true[8:] - true[:8]).norm()
        errors[rows] = float(((got[8:] - got[:8]).double() - (true[8:] - true[:8])).norm())
        assert float((got - true).norm() / true.norm()) < 4 * torch.finfo(dtype).eps
    # Half products of d, and float32 roundings of sums of u's size (2^-24 * 30 against 1e-3).
    assert errors[16] < float(difference) * (2 * torch.finfo(dtype).eps + 0.02)
    assert errors[0] > 20 * errors[16]


def test_what_goes_on_in_half_precision_is_rounded_last():
    layer = HalfProducts(nn.Linear(4, 4), torch.bfloat16, Pairing(), half_output=True)
    assert layer(torch.randn(2, 4)).dtype == torch.bfloat16


def test_pairs_bring_the_difference_of_mixed_precision_nearer_to_float32(shapes_model):
    """In the first third of a path, whose roundings decide which picture it leads to: the trained
    model, prompts against none. (docs/log.md: 0.069 against 0.014.)"""
    mixed = Prepared(shapes_model, precision="bf16-mixed")
    texts = [""] * 16 + ["a red circle and a blue square", "two green triangles"] * 8
    generator = torch.Generator().manual_seed(0)
    z, t = torch.randn(16, 4, 8, 8, generator=generator), torch.linspace(700, 999, 16).round()
    both = torch.cat([z, z]), torch.cat([t, t])
    cond = mixed.encode_prompts(texts)
    with torch.no_grad():
        exact = shapes_model(*both, shapes_model.encode_prompts(texts))
        made = {"rows": mixed(*both, cond), "pairs": mixed.pairs(z, t, cond)}
    true = exact[16:] - exact[:16]
    error = {n: float((got[16:] - got[:16] - true).norm() / true.norm()) for n, got in made.items()}
    assert 0 < error["pairs"] < error["rows"] / 3
    assert error["pairs"] < 0.03
