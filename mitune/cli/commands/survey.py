"""The verb that asks people: survey."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from mitune.arguments.fields import Positional, Repeated, stands_for
from mitune.cli.commands.pages import check_page
from mitune.cli.options.model import Output
from mitune.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Survey(Output):
    """Ask people which pictures show what a prompt says, of several metrics or methods. Pages work
    without JavaScript and set no cookies; nothing about a person is kept."""

    what: Positional[Literal["pool", "serve", "results", "export"]]
    """pool: gather the pictures. serve: the web pages, until interrupted. results: the tables of
    what people answered. export: a CSV file for each finished survey, as the paper's authors have
    them."""
    images: Repeated[list[str]] = field(default_factory=list)
    """pool: NAME=FOLDER of what is compared: a run of mitune eval --bench or mitune
    generate."""
    authors: Annotated[Path | None, stands_for("--images")] = None
    """pool: the authors' folders instead, METRIC/PROMPT_NUMBER.png or
    CATEGORY/METHOD/PROMPT_NUMBER.png below it."""
    kind: Literal["methods", "metrics"] = "methods"
    """pool: what is compared. Of methods a survey has 2 prompts of each category, of metrics 10."""
    out: Annotated[Path | None, stands_for("pool, export: required; results: stdout alone")] = None
    """pool, export: the folder. results: an HTML file too."""
    pool: Repeated[list[Path]] = field(default_factory=list)
    """serve: a folder of mitune survey pool. results: the same, for agreement with metrics."""
    answers: Path = Path("answers.sqlite")
    """serve, results, export: the file of all answers."""
    people: Annotated[Repeated[list[str]], stands_for("everyone")] = field(default_factory=list)
    """serve: a group of people that gets a link of its own."""
    title: str = "Pictures and words"
    """serve: of the pages."""
    each: Annotated[int | None, stands_for("2 of methods, 10 of metrics")] = None
    """serve: prompts of each category in a survey."""
    host: str = "127.0.0.1"
    """serve: the address to listen on; 0.0.0.0 is every network."""
    port: int = 8000
    """serve: the port; 0 is any that is free."""
    root_path: Annotated[str | None, stands_for("none")] = None
    """serve: the path that all pages are below, such as /ask, whether or not a proxy in front takes
    it away."""
    behind_proxy: bool = False
    """serve: believe the proxy's X-Forwarded headers."""

    def run(self) -> dict[str, Any]:
        return {
            "pool": self._pool,
            "serve": self._serve,
            "results": self._results,
            "export": self._export,
        }[self.what]()

    def _pool(self) -> dict[str, Any]:
        from mitune.survey.pool import plain, write_pool
        from mitune.survey.sources import named, of_authors, of_runs, scores_of

        if self.out is None:
            raise UserError("--out is missing: expected a folder for the pool")
        if bool(self.images) == (self.authors is not None):
            raise UserError("expected --images NAME=FOLDER for each, or --authors FOLDER")
        scores: dict[str, dict[Path, float]] = {}
        if self.authors is not None:
            found = of_authors(self.authors, self.kind)
        else:
            runs = named(self.images)
            found, scores = of_runs(runs), scores_of(runs)
        pool, left_out = write_pool(self.out, self.kind, found, scores)
        told = plain(pool) | {"left_out": left_out}
        print(
            f"pool {pool.folder}: {len(pool.items)} prompts, {len(pool.files)} pictures of "
            f"{', '.join(pool.options)}"
        )
        if left_out:
            print(
                f"left out, as something has no picture of them: {len(left_out)} prompts, such "
                f"as {left_out[0]!r}"
            )
        return told

    def _serve(self) -> dict[str, Any]:
        from mitune.web.serve import address_of, check_below, check_server, listen, serve

        check_server("survey")
        from mitune.survey.app import application
        from mitune.survey.serve import campaign, links

        below = check_below((self.root_path or "").rstrip("/"))
        people = self.people or ["everyone"]
        served = campaign(self.pool, self.answers, people, self.title, self.each)
        listening = listen(self.host, self.port)
        for line in links(served, address_of(listening, below)):
            print(line, flush=True)
        serve(application(served, below), listening, behind_proxy=self.behind_proxy)
        print(f"stopped; answers: {self.answers}")
        return {"answers": str(self.answers)}

    def _results(self) -> dict[str, Any]:
        from mitune.core.files import atomic_write, make_folder
        from mitune.report.page import Section, page
        from mitune.survey.pool import Pool
        from mitune.survey.results import plain, results_page, text

        check_page(self.out)
        surveys, pools = self._stored().surveys(), [Pool.read(folder) for folder in self.pool]
        print(text(surveys))
        if self.out is not None:
            section = Section(title="What people answered", body=results_page(surveys, pools))
            make_folder(self.out.parent)
            atomic_write(self.out, page("Survey", [section]))
            print(f"page: {self.out}")
        return plain(surveys, pools)

    def _export(self) -> dict[str, Any]:
        from mitune.survey.answers import export

        if self.out is None:
            raise UserError("--out is missing: expected a folder for the CSV files")
        written = export(self._stored().surveys(), self.out)
        print(f"{len(written)} finished surveys: {self.out}")
        return {"files": [str(path) for path in written]}

    def _stored(self) -> Any:
        from mitune.survey.store import Store

        return Store(self.answers, read=True)
