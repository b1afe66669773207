"""Pairs in addition to the generated ones: a share of real pairs (Wang et al., appendix D.1, Table
7), and the pairs of a prior-preservation term."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from mitune.core.errors import UserError


class Ranked(Protocol):
    """What training needs of a set of real pictures; ``mitune.build_real_set`` creates one."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings with which the set was built, as plain JSON."""
        ...

    def best(self, count: int) -> list[tuple[str, Tensor]]:
        """The ``count`` pairs with the highest scores, best first; all pairs if there are fewer."""
        ...


def check_kinds(real: Ranked | None, prior: Mapping[str, Any] | None) -> None:
    """Raise UserError for generated pictures in the place of real ones, or real ones as a prior;
    ``prior`` has the settings of that set."""
    if real is not None and "sampler" in real.settings:
        raise UserError(
            "the set of real pictures is one of generated ones: expected one that `mitune real` "
            "made"
        )
    if prior is not None and "source" in prior:
        raise UserError(
            "the prior set is one of real pictures: expected one that `mitune build --select "
            "random` made"
        )


def real_pairs(real: Ranked | None, share: float, generated: int) -> list[tuple[str, Tensor]]:
    """The real (prompt, latent) pairs to add to ``generated`` generated pairs.

    Table 7 composes the set of ``1 - x`` generated and ``x`` real images, both selected by MI. Here
    no generated pair is left out, because each stands for a prompt. Instead the set grows by the
    ``x / (1 - x) generated`` real pairs with the highest scores, rounded to whole pairs. An epoch
    shows every pair once, so the share of real samples is also x, to within half a pair per epoch.

    Args:
        real: the set of real pictures; None for none.
        share: x, 0 <= x < 1.
        generated: number of generated pairs.

    Raises:
        UserError: if only one of set and share is given, the set has too few pairs, or the share
            amounts to less than half a pair.
    """
    if real is None and share == 0:
        return []
    if real is None or share == 0:
        raise UserError(
            f"real_share is {share} {'without' if real is None else 'with'} a set of real "
            "pictures: expected both or neither; give a set that `mitune real` made, and a share "
            "above 0"
        )
    count = round(generated * share / (1 - share))
    pairs = real.best(count)
    if generated and not count:
        raise UserError(
            f"real_share is {share}: of a set with {generated} generated pairs this is not one "
            "real pair; give a larger share"
        )
    if len(pairs) < count:
        most = len(pairs) / (generated + len(pairs))
        raise UserError(
            f"real_share is {share}, which takes {count} real pairs beside {generated} generated "
            f"ones, and the set of real pictures keeps {len(pairs)}: expected a share of at most "
            f"{most:.3f}, or a larger set"
        )
    return pairs


def prior_pairs(
    prior: Sequence[tuple[str, Tensor]] | None, weight: float
) -> list[tuple[str, Tensor]]:
    """The pairs of the prior-preservation term (Ruiz et al., arXiv 2208.12242, Eq. 2).

    Args:
        prior: (prompt, latent) pairs that the model generated, unselected; None for no term.
        weight: weight of the term.

    Raises:
        UserError: if only one of pairs and weight is given, or there is no pair.
    """
    if (prior is None) != (weight == 0):
        raise UserError(
            f"prior_weight is {weight} {'without' if prior is None else 'with'} a set of prior "
            "pairs: expected both or neither; give a set built with select random, and a weight "
            "above 0"
        )
    if prior is not None and not prior:
        raise UserError("the prior set has no selected pair: expected at least one")
    return list(prior or ())


def check_weights(weights: Sequence[float] | None, pairs: int, real: int) -> None:
    """Refuse weights of losses that do not fit the set.

    Args:
        weights: of each pair; None for none.
        pairs: number of pairs in the set.
        real: number of real pairs that are added to them.

    Raises:
        UserError: another number of weights than of pairs, a weight that is negative or not finite,
            all are 0, or real pairs, which have none.
    """
    if weights is None:
        return
    if len(weights) != pairs or real:
        beside = f" and {real} real ones" if real else ""
        raise UserError(
            f"{len(weights)} weights for {pairs} pairs{beside}: expected one weight for each pair "
            "of the set, and no real pairs beside them"
        )
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise UserError(
            "a weight is negative or not finite, or all are 0: expected losses' weights"
        )
