"""What a training is about: the pairs of a set, and what is trained on beside or against them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from mitune.config.training import TuneConfig
from mitune.core.identity import check_same_model
from mitune.models.protocol import LatentModel
from mitune.training.mixing import Ranked, check_kinds, check_weights, prior_pairs, real_pairs
from mitune.training.preference import matched

Pair = tuple[str, Tensor]
"""A prompt and a latent ``[C, H, W]`` float32."""


class Pairs(Protocol):
    """What training needs of a fine-tuning set; ``FineTuningSet`` implements it."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings with which the set was built, as plain JSON."""
        ...

    def selected(self) -> Sequence[Pair]:
        """The kept pairs."""
        ...


class Part(NamedTuple):
    """Pairs, and the settings of the set that they are from."""

    pairs: Sequence[Pair]
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a training is about.

    Attributes:
        own: the pairs of the set.
        real: real pairs that join them.
        prior: pairs of the prior-preservation term.
        worse: for each pair of the set one that it is compared with.
        weights: of the losses of the set's pairs; None: 1 each.
        wrong: for each prompt one that does not fit.
    """

    own: Part
    real: Part | None
    prior: Part | None
    worse: Part | None
    weights: Sequence[float] | None
    wrong: Mapping[str, str] | None

    @property
    def pairs(self) -> list[Pair]:
        """Those of the set and the real ones."""
        return [*self.own.pairs, *(self.real.pairs if self.real else ())]


def gathered(
    model: LatentModel,
    config: TuneConfig,
    own: Pairs,
    *,
    real: Ranked | None,
    prior: Pairs | None,
    worse: Pairs | None,
    weights: Sequence[float] | None,
    wrong: Mapping[str, str] | None,
) -> Material:
    """What ``tune`` was given, checked against each other and the config; arguments as there.

    Raises:
        UserError: a set is of another model or of another kind, or they do not fit each other or
            the config.
    """
    for what, found in (
        ("the set", own),
        ("the real set", real),
        ("the prior", prior),
        ("the set of worse pictures", worse),
    ):
        if found is not None:
            check_same_model(what, found.settings, model)
    check_kinds(real, None if prior is None else prior.settings)
    pairs = own.selected()
    added = real_pairs(real, config.real_share, len(pairs))
    kept = prior_pairs(None if prior is None else prior.selected(), config.prior_weight)
    others = matched(pairs, None if worse is None else worse.selected(), config, wrong)
    check_weights(weights, len(pairs), len(added))
    return Material(
        own=Part(pairs, own.settings),
        real=None if real is None else Part(added, real.settings),
        prior=None if prior is None else Part(kept, prior.settings),
        worse=None if worse is None else Part(others, worse.settings),
        weights=weights,
        wrong=wrong,
    )
