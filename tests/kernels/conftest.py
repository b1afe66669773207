"""What all tests of the operations run under."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """New memory holds NaN, so that an element nobody wrote shows. Not where torch's own checks of
    a registration compare what they did twice."""
    if "registration" in request.node.name:
        yield
        return
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
