"""The verb that measures: base and adapter against each other, or a model by a benchmark: eval."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mitune.arguments.fields import Given, stands_for
from mitune.cli.commands.given import given_prompts, warn_long
from mitune.cli.commands.pages import leave_report
from mitune.cli.commands.repeat import check_out, leave_command, running_share
from mitune.cli.defaults import of_preset
from mitune.cli.options.model import Common
from mitune.cli.options.settings import configured, of_one, settings_of
from mitune.config.choices import Acting
from mitune.config.runtime import Runtime
from mitune.config.shard import Shard
from mitune.core.errors import UserError

if TYPE_CHECKING:
    from mitune.evaluation.benchmarks.suite import Suite
    from mitune.models.protocol import LatentModel
    from mitune.scoring.scorer import Scorer


@dataclass(frozen=True, kw_only=True)
class Eval(Common):
    """Compare base and adapter on the same prompts and the same noise, with standard errors; or
    with --bench draw and score a benchmark with a model, with or without an adapter."""

    adapter: Annotated[Path | None, stands_for("none, in a benchmark alone")] = None
    """The LoRA or DoRA to compare with its base."""
    bench: Annotated[str | None, stands_for("compare base and adapter")] = None
    """A benchmark: t2i-compbench=FOLDER with its lists (color_val.txt and so on), geneval2=FILE, or
    a file of prompts. It goes on after an interruption."""
    draw_only: bool = False
    """In a benchmark: draw and do not score, for the official scorers."""
    shard: Annotated[str | None, stands_for("all of them")] = None
    """In a benchmark with --draw-only: NUMBER/OF, such as 0/4, the share of the pictures to draw.
    As many other processes draw the other shares into the same folder; the command without
    --draw-only and --shard then scores them."""
    method: Acting = "guidance"
    """In a benchmark, what acts while a picture is sampled beside guidance."""
    best_of: int = 1
    """In a benchmark: each picture is the best by mutual information of so many."""
    prompts: Annotated[Path | None, stands_for("the shapes world's test list")] = None
    """Text file of held-out prompts."""
    limit: Annotated[int | None, stands_for("all")] = None
    """Only the first so many prompts; of a benchmark, of each category."""
    images: Annotated[int | None, stands_for("4, in a benchmark 10")] = None
    """Pictures of each prompt and seed."""
    seeds: int = 1
    """Seeds of the noise; a benchmark has one."""
    seed: int = 1_000_000
    """The first of them; far from a set's seeds, so that no noise is shared with it."""
    steps: Annotated[int | None, of_preset("sampler.steps")] = None
    """Denoising steps."""
    guidance: Annotated[float | None, of_preset("use_guidance")] = None
    """Guidance at which both are used."""
    scorers: tuple[str, ...] = ()
    """Further metrics, each NAME or NAME=WEIGHTS (folder or hub name): clip, hps, pick, blip-vqa,
    blip-vqa-hf, image-reward, vqa-score, soft-tifa=MODEL,QUESTIONS, spatial, or a plug-in's. In a
    benchmark they take the place of its own of the same name."""
    out: Annotated[Path | None, stands_for("stdout alone")] = None
    """Folder for report.html, eval.json and eval.png, or for a benchmark's pictures and results."""
    settings: Annotated[Given, settings_of(Runtime, of_one(Runtime()), {"cuda_graphs"})] = field(
        default_factory=dict
    )

    def run(self) -> dict[str, Any]:
        return self._benchmark(self.bench) if self.bench else self._comparison()

    def _comparison(self) -> dict[str, Any]:
        from mitune.adapters import adapter
        from mitune.evaluation.report import compare_adapter
        from mitune.scorers.known import find_scorers

        if self.adapter is None:
            raise UserError("--adapter is missing: expected the adapter to compare, or --bench")
        if self.draw_only or self.shard or self.method != "guidance" or self.best_of != 1:
            raise UserError(
                "--draw-only, --shard, --method or --best-of is given without --bench: expected a "
                "benchmark"
            )
        prompts = given_prompts(self, self.prompts, "test")[: self.limit]
        if self.out is not None:
            check_out(self.out)
        model = self.load(self.adapter)  # fails before the base is drawn
        scorers = find_scorers(self.scorers, model)
        adapter.detach(model)
        warn_long(model, prompts)
        result = compare_adapter(
            model,
            self.adapter,
            prompts,
            out=self.out,
            images=4 if self.images is None else self.images,
            seeds=range(self.seed, self.seed + self.seeds),
            steps=self.steps,
            guidance=self.guidance,
            runtime=configured(self, Runtime()),
            scorers=scorers,
        )
        if self.out is not None:
            leave_command(self, self.out)
            leave_report(self.out)
        return result

    def _benchmark(self, bench: str) -> dict[str, Any]:
        from mitune.adapters.adapter_file import digest
        from mitune.config.sets import GenerateConfig
        from mitune.evaluation.benchmarks.run import run_benchmark, table
        from mitune.evaluation.benchmarks.suite import read_suite
        from mitune.evaluation.report import use_sampler

        if self.out is None:
            raise UserError("--out is missing: expected a folder for the benchmark's pictures")
        if self.prompts is not None:
            raise UserError("--prompts is given with --bench: give your own list as --bench FILE")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit is {self.limit}: expected at least 1 prompt")
        if self.seeds != 1:
            raise UserError(f"seeds is {self.seeds}: a benchmark has one; give more --images")
        if self.best_of < 1:
            raise UserError(f"best_of is {self.best_of}: expected at least 1 candidate")
        shard = Shard.read(self.shard)
        if shard.of > 1 and not self.draw_only:
            raise UserError(
                "--shard is given without --draw-only: expected both, as scores need all pictures"
            )
        suite = read_suite(bench, self.limit)
        check_out(self.out)
        model = self.load(self.adapter)
        scorers = [] if self.draw_only else self._scorers(suite, model)
        config = GenerateConfig(
            candidates=10 if self.images is None else self.images,
            sampler=use_sampler(model, steps=self.steps, guidance=self.guidance),
            seed=self.seed,
            scored=False,
            runtime=configured(self, Runtime()),
        )
        for prompts in suite.prompts.values():
            warn_long(model, list(prompts))
        with running_share(self, self.out, self.quiet, shard) as bars:
            result = run_benchmark(
                model,
                suite,
                scorers,
                self.out,
                config,
                adapter=None if self.adapter is None else digest(self.adapter),
                method=self.method,
                best_of=self.best_of,
                shard=shard,
                progress=bars.work,
            )
        if self.draw_only:
            print(f"pictures: {self.out}/*/samples")
        else:
            print(table(suite.name, result["rows"]), end="")
            print(f"results: {self.out / 'results.json'}")
            leave_report(self.out)
        return result

    def _scorers(self, suite: "Suite", model: "LatentModel") -> "list[Scorer]":
        """Found before anything is drawn, so that missing weights cost nothing."""
        from mitune.evaluation.benchmarks.oracle import Oracle
        from mitune.scorers.known import find_scorers

        given = {each.partition("=")[0]: each for each in reversed(self.scorers)}
        own = dict.fromkeys(name for metrics in suite.metrics.values() for name in metrics)
        first = [given.get(name, name) for name in own]
        found = find_scorers([*first, *(each for each in self.scorers if each not in first)], model)
        return [*found, Oracle(model.world)] if model.world else found
