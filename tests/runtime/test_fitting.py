"""The largest size that fits, with work that runs out of memory above a known one."""

import pytest
import torch

from mitune.core.errors import UserError
from mitune.runtime.fitting import largest


@pytest.mark.parametrize("room", [1, 2, 3, 7, 8, 9, 31, 32, 100])
def test_it_is_found_with_few_trials(room: int) -> None:
    tried = []

    def attempt(size: int) -> None:
        tried.append(size)
        if size > room:
            raise torch.OutOfMemoryError

    assert largest(attempt, 32, what="sample", mend="more") == min(room, 32)
    assert len(tried) <= 11


def test_not_even_one() -> None:
    def attempt(size: int) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(UserError, match="not even one sample fits into memory: expected more"):
        largest(attempt, 32, what="sample", mend="more")
