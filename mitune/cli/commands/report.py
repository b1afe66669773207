"""The verb that makes a page of a run: report."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mitune.arguments.fields import Positional, stands_for
from mitune.cli.commands.pages import check_page
from mitune.cli.options.model import Output
from mitune.core.errors import UserError

if TYPE_CHECKING:
    from mitune.models.protocol import LatentModel


@dataclass(frozen=True, kw_only=True)
class Report(Output):
    """Make one page of a run, or of several beside each other: pools sorted by score, base and
    tuned on the same noise, curves, tables, and what repeats it. It opens from disk and asks the
    network for nothing."""

    runs: Positional[list[Path]]
    """Folders of mitune align, build, tune, eval --out, eval --bench or study."""
    out: Annotated[Path | None, stands_for("report.html in the first folder")] = None
    """The page's file."""
    model: Annotated[str | None, stands_for("the one that made the set")] = None
    """What decodes the pictures of sets; a name, a folder or a file as for the other verbs."""
    device: Annotated[str | None, stands_for("a GPU where there is one, else cpu")] = None
    """cpu, cuda or cuda:N."""
    no_pictures: bool = False
    """Show no pictures of sets, and load no model."""

    categories: Annotated[Path | None, stands_for("those of the embedded model's world")] = None
    """A table of tab-separated lines with the columns prompt and category, for histograms of scores
    by category."""

    def run(self) -> dict[str, Any]:
        from mitune.core.prompts import read_categories
        from mitune.report.write import write_report

        for run in self.runs:
            if not run.is_dir():
                raise UserError(f"{run} is no folder: expected the folder of a run")
        check_page(self.out)
        categories = None if self.categories is None else read_categories(self.categories)
        path = write_report(self.runs, self.out, model=self._decoder(), categories=categories)
        print(f"report: {path}")
        return {"report": str(path)}

    def _decoder(self) -> "LatentModel | None":
        """The model that decodes, if there is something to decode."""
        from mitune.core.progress import quiet_libraries
        from mitune.load import load
        from mitune.report.write import model_of

        if self.no_pictures:
            return None
        name = self.model or next(filter(None, map(model_of, self.runs)), None)
        quiet_libraries()
        return None if name is None else load(name, device=self.device)
