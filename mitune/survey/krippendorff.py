"""Krippendorff's alpha for nominal values: agreement between any number of observers who each saw
some of the units (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011)."""

from collections import Counter
from collections.abc import Hashable, Sequence


def alpha(units: Sequence[Sequence[Hashable]]) -> float | None:
    """1 is perfect agreement, 0 what chance gives.

    Args:
        units: for each unit the values that observers gave it; one with fewer than two says
            nothing.

    Returns:
        Alpha; None where no two observers saw the same unit, 1 if all values are equal.
    """
    paired = [Counter(unit) for unit in units if len(unit) > 1]
    totals: Counter[Hashable] = Counter()
    disagreement = 0.0
    for unit in paired:
        count = unit.total()
        totals += unit
        # Ordered pairs of unequal values, each weighed by 1 / (m - 1).
        disagreement += (count**2 - sum(n**2 for n in unit.values())) / (count - 1)
    n = totals.total()
    if not n:
        return None
    expected = (n**2 - sum(v**2 for v in totals.values())) / (n - 1)
    return 1.0 - disagreement / expected if expected else 1.0
