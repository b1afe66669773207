"""The verb that builds a fine-tuning set: build."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from mitune.arguments.fields import Given, stands_for
from mitune.cli.commands.given import given_prompts, warn_long
from mitune.cli.commands.print_set import print_set
from mitune.cli.commands.repeat import running_share
from mitune.cli.options.model import Common
from mitune.cli.options.pool import Pool
from mitune.cli.options.settings import configured, of_presets, settings_of
from mitune.config.sets import BuildConfig
from mitune.config.shard import Shard


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
    settings: Annotated[Given, settings_of(BuildConfig, of_presets(BuildConfig.of), {"prune"})] = (
        field(default_factory=dict)
    )

    def run(self) -> dict[str, Any]:
        from mitune.adapters.adapter_file import digest
        from mitune.methods.build import build_set
        from mitune.selection.steering import tell_audit

        shard = Shard.read(self.shard)
        prompts = given_prompts(self, self.prompts, "train")[: self.limit]
        model = self.load(self.adapter)
        warn_long(model, prompts)
        with running_share(self, self.out, self.quiet, shard) as bars:
            built = build_set(
                model,
                prompts,
                self.out,
                configured(self, BuildConfig.of(model.preset), prune=self.pruning()),
                adapter=None if self.adapter is None else digest(self.adapter),
                shard=shard,
                progress=lambda done, total: bars.candidate(1, done, total),
            )
        summary = built.summary()
        print_set(summary)
        if (found := built.audit()) is not None:
            print(tell_audit(found))
            summary["audit"] = found
        return summary
