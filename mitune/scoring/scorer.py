"""What tells how well a picture shows a prompt: the protocol of every metric, ours and others'."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from mitune.core.identity import weights_digest


class Scorer(Protocol):
    """A metric of (picture, prompt) pairs, higher is better.

    Attributes:
        name: as it is given on the command line and written in results.
        requires: what it needs besides the pictures, in words: weights, a parser, a question file.
    """

    name: str
    requires: str

    def score(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """Scores of pairs, ``[N]`` float64 on the CPU.

        Args:
            images: ``[N, 3, height, width]`` float32 in [0, 1].
            prompts: ``[N]``, one for each picture.

        Raises:
            UserError: prompts that it cannot score at all.
        """
        ...


def scorer_identity(scorer: Scorer) -> str:
    """What identifies a scorer's numbers: its name, its settings, and the contents of the networks
    among its attributes."""
    digest = hashlib.sha256()
    for name, value in sorted(vars(scorer).items()):
        if isinstance(value, nn.Module):
            digest.update(f"{name} {weights_digest(value)}".encode())
        elif isinstance(value, str | int | float | bool):
            digest.update(f"{name} {value!r}".encode())
    return f"{scorer.name} {digest.hexdigest()[:16]}"
