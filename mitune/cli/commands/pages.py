"""The page that a run leaves, for people."""

from pathlib import Path
from typing import TYPE_CHECKING

from mitune.core.errors import UserError

if TYPE_CHECKING:
    from mitune.models.protocol import LatentModel


def check_page(out: Path | None) -> None:
    """Before the work: raise UserError if ``out`` cannot become a file."""
    if out is not None and (out.is_dir() or not out.name):
        raise UserError(f"--out is {out}, a folder: expected the page's file, such as page.html")


def leave_report(out: Path, model: "LatentModel | None" = None) -> None:
    """``OUT/report.html``; ``model`` decodes the latents of sets."""
    from mitune.report.write import write_report

    print(f"report: {write_report([out], model=model)}")
