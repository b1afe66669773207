"""The largest micro-batch, with a gradient that runs out of memory above a known size."""

import pytest
import torch
from tiny_model import TinyModel, TinySet, config

from mitune.core.errors import UserError
from mitune.training.batch_size import find_batch_size
from mitune.training.batches import Batches


class Full:
    """Room for ``room`` samples."""

    def __init__(self, room):
        self.room, self.tried = room, []

    def begin(self):
        pass

    def add(self, samples):
        self.tried.append(len(samples.t))
        if len(samples.t) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.zeros(())

    def finish(self):
        pass


class OnGpu:
    """Batches that say they are on a GPU; their samples are where they are."""

    device = torch.device("cuda")

    def __init__(self, chosen):
        self.step = Batches(TinyModel(), TinySet().selected(), chosen).step


def test_auto_takes_it():
    chosen = config(batch=24, micro_batch="auto")
    assert find_batch_size(Full(10), OnGpu(chosen), chosen) == 10
    assert find_batch_size(Full(100), OnGpu(chosen), chosen) == 24


def test_a_cpu_is_not_asked():
    for asked, size in ((16, 16), (100, 24), ("auto", 24)):
        chosen = config(batch=24, micro_batch=asked)
        gradient = Full(0)
        batches = Batches(TinyModel(), TinySet().selected(), chosen)
        assert find_batch_size(gradient, batches, chosen) == size
        assert not gradient.tried


def test_one_that_does_not_fit_names_the_largest_that_does():
    chosen = config(batch=24, micro_batch=16)
    assert find_batch_size(Full(16), OnGpu(chosen), chosen) == 16
    with pytest.raises(UserError, match="the largest that does is 10"):
        find_batch_size(Full(10), OnGpu(chosen), chosen)
    with pytest.raises(UserError, match="not even one sample fits"):
        find_batch_size(Full(0), OnGpu(chosen), chosen)
