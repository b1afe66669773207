"""Micro-batches in CUDA graphs: the bookkeeping with a stand-in for the graph; all on a GPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model import TinyModel, TinySet, config, refusal, scramble
from torch import Tensor

import mitune
from mitune.adapters import adapter
from mitune.core.errors import UserError
from mitune.training import captured as captured_module
from mitune.training.batches import Batches
from mitune.training.loop import tune
from mitune.training.merged import MergedGradient

Work = Callable[[], None]


def gradients(model: Any, chosen: Any, steps: int = 2) -> list[list[Tensor]]:
    """Loss and gradients of some steps, the adapter moved between them."""
    made = MergedGradient(model, chosen)
    batches, found = Batches(model, TinySet().selected(), chosen), []
    for step in range(steps):
        made.begin()
        loss = torch.stack([made.add(samples) for samples in batches.step(step)]).sum()
        made.finish()
        parameters = adapter.parameters(model).values()
        found.append([loss, *(p.grad.clone() for p in parameters if p.grad is not None)])
        with torch.no_grad():
            for parameter in parameters:
                parameter.mul_(1.1)
    return found


def tiny(**changes: Any) -> tuple[TinyModel, Any]:
    model, chosen = TinyModel(), config(micro_batch=3, **changes)
    adapter.attach(model, chosen)
    scramble(model.unet)
    return model, chosen


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Work]:
    """What is captured, which here runs again where a graph would be replayed."""
    recorded: list[Work] = []

    def stand_in(work: Work, device: torch.device, pool: Any) -> Work:
        for _ in range(3):  # as the real one, which then records without computing
            work()
        recorded.append(work)
        return work

    monkeypatch.setattr(captured_module, "capture", stand_in)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    return recorded


def test_every_size_is_recorded_once_and_the_gradient_is_the_plain_one(graphs: list[Work]) -> None:
    """Micro-batches of 3, 3 and 2: other samples, and sums that hold something, at each replay."""
    expected = gradients(*tiny(), steps=3)
    got = gradients(*tiny(cuda_graphs=True), steps=3)
    for one, other in zip(got, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert len(graphs) == 2


def test_a_graph_that_computes_something_else_is_refused(
    graphs: list[Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured_module, "capture", lambda work, device, pool: lambda: None)
    assert "the graph's gradient is 1.0e+00 away" in refusal(gradients, *tiny(cuda_graphs=True))


def test_what_cannot_be_captured_is_refused(tmp_path: Path) -> None:
    for changes in ({"gradient": "peft"}, {"text_encoder_lr": 1e-5}, {"method": "full"}):
        with pytest.raises(UserError, match="cuda_graphs holds the merged gradient"):
            config(cuda_graphs=True, **changes)
    text = refusal(tune, TinyModel(), TinySet(), tmp_path / "run", config(cuda_graphs=True))
    assert "the device is cpu: expected a CUDA GPU" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_on_a_gpu_replays_are_the_plain_gradient_and_wait_for_nothing(backend: str) -> None:
    found = []
    latents = torch.randn(3, 4, 8, 8)  # once: both runs train on the same
    for captured in (False, True):
        model = mitune.load("shapes-v1", device="cuda")
        chosen = config(batch=16, micro_batch=8, cuda_graphs=captured, backend=backend)
        adapter.attach(model, chosen)
        made = MergedGradient(model, chosen)
        pairs = [("a red circle", latent) for latent in latents]
        samples = list(Batches(model, pairs, chosen).step(0))
        for _ in range(2):  # the second records
            made.begin()
            for each in samples:
                made.add(each)
        made.begin()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            shares = [made.add(each) for each in samples]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        made.finish()
        gradient = [p.grad for p in adapter.parameters(model).values() if p.grad is not None]
        found.append(torch.cat([torch.stack(shares), *(g.flatten() for g in gradient)]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
