"""cuDNN's settings: changed while it matters, and then as they were, also after an error."""

import pytest
import torch

from mitune.runtime.convolutions import exact_convolutions, tried_convolutions


def failing(settings, name):
    """What a setting of cuDNN's is where an error ends the block."""
    with settings:
        seen.append(getattr(torch.backends.cudnn, name))
        raise KeyError


seen = []


def test_float32_convolutions_are_float32_while_it_is_entered():
    assert torch.backends.cudnn.allow_tf32  # torch's default, which is why this exists
    with pytest.raises(KeyError):
        failing(exact_convolutions(), "allow_tf32")
    assert seen.pop() is False
    assert torch.backends.cudnn.allow_tf32


def test_algorithms_are_tried_unless_torch_is_to_be_deterministic(monkeypatch):
    assert not torch.backends.cudnn.benchmark
    with pytest.raises(KeyError):
        failing(tried_convolutions(), "benchmark")
    assert seen.pop() is True
    assert not torch.backends.cudnn.benchmark
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    with tried_convolutions():
        assert not torch.backends.cudnn.benchmark
