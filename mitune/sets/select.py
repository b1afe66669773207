"""Select the candidates to keep from a prompt's pool (MI-Tune, Algorithm 1, and its two
controls)."""

import hashlib
import math
from collections.abc import Sequence

from mitune.core.errors import UserError

RULES = ("mi", "random", "worst")


def rank(scores: Sequence[float], rule: str, seed: int, prompt: str) -> list[int]:
    """Order all candidates of one prompt by the rule, best first.

    ``mi``: highest score first; ``worst``: lowest score first; both give ties to the lower index.
    ``random``: an order that depends only on (seed, prompt), so that this control does not change
    when the scores do. Under every rule the non-finite scores come last, by index.

    Args:
        scores: one score per candidate in nats, by candidate index.
        rule: one of RULES.
        seed: the run's seed; only ``random`` uses it.
        prompt: the prompt's text; only ``random`` uses it.

    Returns:
        A permutation of ``range(len(scores))``.

    Raises:
        UserError: for an unknown rule.
    """
    check_rule(rule)

    def key(index: int) -> bytes | float:
        if rule == "random":
            return hashlib.sha256(f"mitune.select/{seed}/{index}/{prompt}".encode()).digest()
        return -scores[index] if rule == "mi" else scores[index]

    finite = [i for i in range(len(scores)) if math.isfinite(scores[i])]
    broken = [i for i in range(len(scores)) if not math.isfinite(scores[i])]
    return sorted(finite, key=key) + broken  # sorted is stable: ties stay in index order


def select(scores: Sequence[float], keep: int, rule: str, seed: int, prompt: str) -> list[int]:
    """Indices of the kept candidates of one prompt, best first. Arguments as in ``rank``.

    A candidate with a non-finite score is never kept, because one NaN latent in the set would spoil
    the whole fine-tuning. If fewer than ``keep`` scores are finite, the result is shorter than
    ``keep``.

    Raises:
        UserError: for an unknown rule, ``keep < 1`` or ``keep > len(scores)``.
    """
    check_keep(keep, len(scores))
    return [i for i in rank(scores, rule, seed, prompt)[:keep] if math.isfinite(scores[i])]


def check_rule(rule: str) -> None:
    """Raise UserError unless ``rule`` is one of RULES."""
    if rule not in RULES:
        raise UserError(f"unknown selection rule {rule!r}; expected one of {', '.join(RULES)}")


def check_keep(keep: int, candidates: int) -> None:
    """Raise UserError unless ``1 <= keep <= candidates``."""
    if not 1 <= keep <= candidates:
        raise UserError(
            f"cannot keep {keep} of {candidates} candidates; expected 1 <= keep <= candidates: "
            "lower keep or generate more candidates"
        )
