"""The verb that merges an adapter into its model: merge."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitune.cli.options.model import Source


@dataclass(frozen=True, kw_only=True)
class Merge(Source):
    """Merge an adapter into its model: a whole diffusers pipeline folder, in float32.

    The folder is a model like any other, also for --model. mitune uses the paper's settings for it:
    what the embedded model has of its own (settings, prompts, oracle) is lost.
    """

    adapter: Path
    """Folder or file of the LoRA or DoRA."""
    out: Path
    """New folder of the model."""

    def run(self) -> dict[str, Any]:
        from mitune.adapters.export.whole_model import merge
        from mitune.adapters.export.write import check_request

        check_request(self.adapter, self.out, "merged")
        path = merge(self.load(), self.adapter, self.out)
        print(f"model: {path}")
        return {"model": str(path)}
