"""The loss that draws a noun's attention to its object."""

import pytest
import torch
from torch import Tensor

from mitune.models.attention_maps import attention_maps
from mitune.worlds.grounding import Named, token_loss
from mitune.worlds.networks import denoiser


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, 4, 8, 8, generator=draw),
        torch.tensor([100, 900]),
        torch.randn(2, 6, 16, generator=draw),
    )


def unet() -> torch.nn.Module:
    torch.manual_seed(0)
    return denoiser(8, 4, 16)


def named(*boxes: tuple[slice, slice], nouns: list[list[int]]) -> Named:
    """Rows of nouns; the i-th noun of each row has the i-th box."""
    masks = torch.zeros(len(nouns), len(boxes), 8, 8)
    for i, (rows, columns) in enumerate(boxes):
        masks[:, i, rows, columns] = 1.0
    return Named(torch.tensor(nouns), masks)


WHOLE = (slice(0, 8), slice(0, 8))
CORNER = (slice(0, 4), slice(4, 8))


def test_recording_does_not_change_what_the_denoiser_computes(inputs) -> None:
    network = unet()
    own = network(*inputs).sample
    with attention_maps(network) as maps:
        recorded = network(*inputs).sample
    torch.testing.assert_close(recorded, own)
    count = len(maps)
    assert torch.equal(network(*inputs).sample, own)
    assert len(maps) == count > 0


def test_what_is_recorded_is_what_diffusers_computes(inputs) -> None:
    """Its own processor without fused attention, of a layer with the same queries and keys."""
    network = unet()
    layers = [m for name, m in network.named_modules() if name.endswith(".attn2")]
    given = []
    for layer in layers:
        layer.register_forward_pre_hook(
            lambda module, args, kwargs: given.append((module, args[0], kwargs)), with_kwargs=True
        )
    with attention_maps(network) as maps:
        network(*inputs)
    for (layer, hidden, kwargs), found in zip(given, maps, strict=True):
        text = kwargs["encoder_hidden_states"]
        query, key = (layer.head_to_batch_dim(x) for x in (layer.to_q(hidden), layer.to_k(text)))
        own = layer.get_attention_scores(query, key).unflatten(0, (-1, layer.heads)).mean(dim=1)
        torch.testing.assert_close(found, own)


def test_the_loss_is_the_squared_share_that_misses_the_object(inputs) -> None:
    """With uniform attention: (1 - area of the object)²; of the nouns that have one alone."""
    network = unet()
    for name, weight in network.named_parameters():
        if ".attn2.to_q" in name:
            torch.nn.init.zeros_(weight)
    for asked, expected in (
        (named(WHOLE, nouns=[[2], [3]]), 0.0),
        (named(CORNER, nouns=[[2], [3]]), 0.75**2),
        (named(CORNER, WHOLE, nouns=[[2, 4], [0, 0]]), 0.75**2 / 2),
        (named(CORNER, nouns=[[0], [0]]), 0.0),
        (named((slice(0, 0), slice(0, 0)), nouns=[[2], [3]]), 0.0),
    ):
        with torch.no_grad(), attention_maps(network) as maps:
            network(*inputs)
        assert float(token_loss(maps, asked)) == pytest.approx(expected, abs=1e-6)


def test_training_on_it_moves_the_attention_there(inputs) -> None:
    network = unet()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    asked = named(CORNER, nouns=[[2], [3]])
    losses = []
    for _ in range(12):
        with attention_maps(network) as maps:
            network(*inputs)
        loss = token_loss(maps, asked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
