"""One way of tuning that a study compares with others."""

from dataclasses import dataclass

from mitune.config.training import TuneConfig
from mitune.evaluation.rules import Rule


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to make a set and to tune on it.

    Attributes:
        name: in tables, and of its folder.
        rule: ranks the pools; None takes candidates at random.
        guidance: of the pools.
        candidates: of each pool, the first ones of the study's.
        keep: how many of each pool are kept.
        tuning: on what is kept; its seed is replaced by the study's.
        rounds: of pool, choice and tuning; each starts from the last one's adapter, and each one's
            adapter is compared. With 0 rounds it is tuned on the drawings of ``shown`` alone.
        real_share: share of the pairs that the world itself drew (Table 7).
        same_size: real pairs replace generated ones, so that the set's size stays.
        shown: name of a category: the arm is first tuned on the world's own drawings of its
            prompts, and its pools are drawn by the model so tuned. None: it begins with the base.
        control: name of the arm that it is compared with, besides the base model.
    """

    name: str
    rule: Rule | None
    guidance: float
    candidates: int
    keep: int
    tuning: TuneConfig
    rounds: int = 1
    real_share: float = 0.0
    same_size: bool = False
    shown: str | None = None
    control: str | None = None

    @property
    def names(self) -> list[str]:
        """What the adapters that are compared are called, in the order of the rounds."""
        if self.rounds < 2:
            return [self.name]
        return [f"{self.name} R={number}" for number in range(1, self.rounds + 1)]
