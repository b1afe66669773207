"""What tells how well a picture shows a prompt: the protocol of every metric, ours and others'."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Protocol

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
    """What identifies a scorer's numbers: its name, and a digest of all that it is made of, the
    contents of networks, models and vocabularies among it."""
    digest = hashlib.sha256()
    for part in _parts(vars(scorer)):
        digest.update(f"{part}\n".encode())
    return f"{scorer.name} {digest.hexdigest()[:16]}"


def _parts(value: Any) -> Iterator[str]:
    if isinstance(value, nn.Module):
        yield f"network {weights_digest(value)}"
    elif isinstance(value, str | int | float | bool | None):
        yield repr(value)
    elif isinstance(value, Mapping):
        for name in sorted(value):
            yield f"{name}:"
            yield from _parts(value[name])
    elif isinstance(value, list | tuple):
        yield f"{len(value)} of:"
        for each in value:
            yield from _parts(each)
    elif (fingerprint := getattr(value, "fingerprint", None)) is not None:
        yield f"model {fingerprint}"
    elif callable(vocabulary := getattr(value, "get_vocab", None)):
        yield from _parts(vocabulary())
    elif is_dataclass(value):
        yield from _parts({each.name: getattr(value, each.name) for each in fields(value)})
    elif (tokenizer := getattr(value, "tokenizer", None)) is not None:  # of a processor
        yield from _parts(tokenizer)
    else:  # a function, or settings that only its class tells
        yield getattr(value, "__qualname__", type(value).__qualname__)
