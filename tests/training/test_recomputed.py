"""Gradient checkpointing: the same gradient from fewer kept activations."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from outcome import distance
from tiny_model import TinyModel, TinySet, config

from mitune.adapters import adapter
from mitune.core.errors import UserError
from mitune.training.batches import Batches
from mitune.training.gradient import gradient_of
from mitune.training.loop import tune
from mitune.training.recomputed import recomputed


def kept_bytes(model: Any, chosen: Any) -> tuple[int, list[torch.Tensor]]:
    """What the forward pass of a micro-batch keeps for the backward pass, and the gradient."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in model.unet.parameters()}
    with recomputed(model, chosen.gradient_checkpointing):
        made = gradient_of(model, chosen)
        made.begin()
        (samples,) = Batches(model, TinySet().selected(), chosen).step(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            made.add(samples)
        made.finish()
    assert not any(getattr(m, "gradient_checkpointing", False) for m in model.unet.modules())
    gradients = [p.grad for p in adapter.parameters(model).values() if p.grad is not None]
    return sum(size for place, size in kept.items() if place not in own), gradients


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Worker threads would not see the hooks that count."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("gradient", ["merged", "peft"])
def test_less_is_kept_and_the_gradient_is_the_same(gradient: str) -> None:
    found = []
    for on in (False, True):
        model = TinyModel()
        chosen = config(batch=8, micro_batch=8, gradient=gradient, gradient_checkpointing=on)
        adapter.attach(model, chosen)
        found.append(kept_bytes(model, chosen))
    (plain, expected), (less, got) = found
    assert less < 0.7 * plain
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("backend", ["eager", "inductor"], ids=["eager", "compiled"])
def test_a_training_ends_the_same(tmp_path: Path, backend: str) -> None:
    made = []
    for on in (False, True):
        out = tmp_path / str(on)
        chosen = config(iterations=2, backend=backend, gradient_checkpointing=on)
        made.append(tune(TinyModel(), TinySet(), out, chosen))
    assert distance(*made) < 1e-4


def test_a_network_without_it_is_refused() -> None:
    model = TinyModel()
    model.unet._supports_gradient_checkpointing = False
    with (
        pytest.raises(UserError, match="a UNet2DConditionModel has none: leave it off"),
        recomputed(model, True),
    ):
        pass
