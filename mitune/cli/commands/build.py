"""The verb that builds a fine-tuning set: build."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mitune.arguments.fields import Given, stands_for
from mitune.cli.commands.given import given_prompts, warn_long
from mitune.cli.commands.print_set import print_set
from mitune.cli.commands.repeat import running, running_share
from mitune.cli.options.model import Common
from mitune.cli.options.pool import Pool
from mitune.cli.options.settings import configured, given, of_presets, settings_of
from mitune.config.preset import PAPER
from mitune.config.sets import BuildConfig
from mitune.config.shard import Shard
from mitune.core.errors import UserError

if TYPE_CHECKING:
    from mitune.sets import FineTuningSet


@dataclass(frozen=True, kw_only=True)
class Build(Common, Pool):
    """Build a fine-tuning set: generate each prompt's pool, score it by mutual information, keep
    the best."""

    out: Path
    """Folder of the set (Parquet); the same command after an interruption goes on."""
    adapter: Annotated[Path | None, stands_for("none")] = None
    """A LoRA or DoRA on the model that generates."""
    shard: Annotated[str | None, stands_for("all of it")] = None
    """The share of the set that this process makes, such as 0/4: several of them, on other machines
    too, write one folder (or their own: mitune set merge joins them)."""
    ray: Annotated[str | None, stands_for("this process alone")] = None
    """Build on a Ray cluster, with a worker for each GPU: local starts one here, auto or HOST:PORT
    joins one. All machines need --out under the same path."""
    workers: Annotated[int | None, stands_for("one a GPU, else one a machine")] = None
    """With --ray: at most so many."""
    tries: int = 3
    """With --ray: how often a part of the set may fail before it is put aside."""
    settings: Annotated[Given, settings_of(BuildConfig, of_presets(BuildConfig.of), {"prune"})] = (
        field(default_factory=dict)
    )

    def run(self) -> dict[str, Any]:
        from mitune.selection.steering import tell_audit

        shard = Shard.read(self.shard)
        prompts = given_prompts(self, self.prompts, "train")[: self.limit]
        built = self._on_ray(prompts) if self.ray else self._here(prompts, shard)
        summary = built.summary()
        print_set(summary)
        if (found := built.audit()) is not None:
            print(tell_audit(found))
            summary["audit"] = found
        return summary

    def _on_ray(self, prompts: list[str]) -> "FineTuningSet":
        """Build with a fleet; the model is loaded by its workers alone."""
        from mitune.adapters.adapter_file import digest
        from mitune.fleet.build import build_set_on
        from mitune.fleet.on_ray import Cluster
        from mitune.fleet.set_work import SetJob

        if self.shard is not None:
            raise UserError("--shard and --ray are given: expected one of them")
        options = given(self, BuildConfig.of(PAPER), prune=self.pruning())
        job = SetJob(
            load=self.loader(self.adapter),
            adapter=None if self.adapter is None else digest(self.adapter),
            prompts=tuple(prompts),
            out=self.out.absolute(),
            options=options,
        )
        cluster = Cluster(address=self.ray or "local", workers=self.workers)
        with running(self, self.out, self.quiet) as bars:
            return build_set_on(
                cluster,
                job,
                tries=self.tries,
                progress=lambda done, total: bars.work("parts", done, total),
            )

    def _here(self, prompts: list[str], shard: Shard) -> "FineTuningSet":
        from mitune.adapters.adapter_file import digest
        from mitune.methods.build import build_set

        if self.workers is not None:
            raise UserError("--workers is given without --ray: expected both")
        model = self.load(self.adapter)
        warn_long(model, prompts)
        with running_share(self, self.out, self.quiet, shard) as bars:
            return build_set(
                model,
                prompts,
                self.out,
                configured(self, BuildConfig.of(model.preset), prune=self.pruning()),
                adapter=None if self.adapter is None else digest(self.adapter),
                shard=shard,
                progress=lambda done, total: bars.candidate(1, done, total),
            )
