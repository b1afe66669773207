"""The verb that makes a set of real captioned pictures: real."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from mitune.arguments.fields import stands_for
from mitune.cli.commands.print_set import print_set
from mitune.cli.commands.repeat import running
from mitune.cli.defaults import of_preset
from mitune.cli.options.configured import configured
from mitune.cli.options.model import Common, Running
from mitune.config.choices import Convention, ReNoising
from mitune.config.sets import RealConfig
from mitune.core import progress


@dataclass(frozen=True, kw_only=True)
class Real(Common, Running):
    """Make a set of real captioned pictures, scored by mutual information, for `mitune tune
    --real`."""

    source: str
    """A folder of pictures, each with a .txt of its name or listed in metadata.jsonl; WebDataset
    shards, such as 'shards/*.tar'; or, with the package datasets, a data set's name."""
    out: Path
    """Folder of the set (Parquet); the same command after an interruption goes on."""
    limit: Annotated[int | None, stands_for("all")] = None
    """Only the first so many pictures."""
    keep: int = 1
    """How many pictures of one caption are kept, the best first."""
    estimator: Annotated[ReNoising | None, of_preset("estimator", trajectory="orthogonal")] = None
    """What scores a picture, by re-noising: orthogonal (Eq. 2) or standard (Kong et al. 2024)."""
    draws: Annotated[int | None, of_preset("draws")] = None
    """Draws of (t, noise) for each picture; more is steadier."""
    convention: Annotated[Convention | None, of_preset("sampler.convention")] = None
    """Weights of the score: paper (Eq. 2) or reference (the authors' code)."""
    t_min: Annotated[int | float | None, of_preset("sampler.t_min")] = None
    """Only t > t_min counts for the score; none: the convention's own."""
    seed: int = 0
    """Keys the draws of the score."""
    batch: int = 64
    """Re-noised copies in one call of the model: changes speed and memory, not results."""

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
