"""The page that a run leaves, for people."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mitune.models.protocol import LatentModel


def leave_report(out: Path, model: "LatentModel | None" = None) -> None:
    """``OUT/report.html``; ``model`` decodes the latents of sets."""
    from mitune.report.write import write_report

    print(f"report: {write_report([out], model=model)}")
