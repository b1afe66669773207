"""The verb that makes a set of real captioned pictures: real."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from mitune.arguments.fields import Given
from mitune.cli.commands.print_set import print_set
from mitune.cli.commands.repeat import running
from mitune.cli.options.model import Common
from mitune.cli.options.settings import configured, of_presets, settings_of
from mitune.config.sets import RealConfig
from mitune.core import progress


@dataclass(frozen=True, kw_only=True)
class Real(Common):
    """Make a set of real captioned pictures, scored by mutual information, for `mitune tune
    --real`."""

    source: str
    """A folder of pictures, each with a .txt of its name or listed in metadata.jsonl; WebDataset
    shards, such as 'shards/*.tar'; or, with the package datasets, a data set's name."""
    out: Path
    """Folder of the set (Parquet); the same command after an interruption goes on."""
    settings: Annotated[
        Given,
        settings_of(RealConfig, of_presets(RealConfig.of), {"slots", "cuda_graphs"}, limit="all"),
    ] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        from mitune.methods.real import build_real_set

        model = self.load()
        with running(self, self.out, self.quiet) as bars:
            built = build_real_set(
                model,
                self.source,
                self.out,
                configured(self, RealConfig.of(model.preset)),
                progress=lambda done, total: bars.candidate(1, done, total),
            )
        # In one line: captions of the web are often long, and there are many.
        if cut := model.too_long(built.prompts):
            progress.warn(
                f"{len(cut)} of {len(built.prompts)} captions are cut to "
                f"{model.prompt_limit} tokens, such as: {cut[0]}"
            )
        summary = built.summary()
        print_set(summary)
        return summary
