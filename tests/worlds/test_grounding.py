"""The loss that draws a noun's attention to its object."""

import pytest
import torch
from torch import Tensor

from mitune.worlds.grounding import Grounding, Named
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
    grounding = Grounding(network)
    recorded = network(*inputs).sample
    torch.testing.assert_close(recorded, own)
    grounding.remove()
    assert torch.equal(network(*inputs).sample, own)


def test_the_loss_is_the_squared_share_that_misses_the_object(inputs) -> None:
    """With uniform attention: (1 - area of the object)²; of the nouns that have one alone."""
    network = unet()
    for name, weight in network.named_parameters():
        if ".attn2.to_q" in name:
            torch.nn.init.zeros_(weight)
    grounding = Grounding(network)
    for asked, expected in (
        (named(WHOLE, nouns=[[2], [3]]), 0.0),
        (named(CORNER, nouns=[[2], [3]]), 0.75**2),
        (named(CORNER, WHOLE, nouns=[[2, 4], [0, 0]]), 0.75**2 / 2),
        (named(CORNER, nouns=[[0], [0]]), 0.0),
        (named((slice(0, 0), slice(0, 0)), nouns=[[2], [3]]), 0.0),
    ):
        network(*inputs)
        assert float(grounding.loss(asked)) == pytest.approx(expected, abs=1e-6)


def test_training_on_it_moves_the_attention_there(inputs) -> None:
    network = unet()
    grounding = Grounding(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    asked = named(CORNER, nouns=[[2], [3]])
    losses = []
    for _ in range(12):
        network(*inputs)
        loss = grounding.loss(asked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
