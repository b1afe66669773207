"""The verb that writes an adapter for another program: export."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from mitune.arguments.fields import stands_for
from mitune.cli.options.model import Source
from mitune.config.choices import Form


@dataclass(frozen=True, kw_only=True)
class Export(Source):
    """Write an adapter in the form that another program reads, with a model card beside it.

    Forms: diffusers; comfyui (LoRA and DoRA, exact in ComfyUI at strength 1); kohya (plain LoRA,
    which every program reads; of a DoRA an approximation, with its error reported); merged (as
    'mitune merge'). docs/adapters.md says more.
    """

    adapter: Path
    """Folder or file of the LoRA or DoRA."""
    out: Path
    """New folder; its name becomes that of the file in it."""
    format: Form
    """What the other program reads."""
    rank: Annotated[int | None, stands_for("twice the rank of a DoRA, a LoRA's own")] = None
    """For kohya: rank of the plain LoRA."""

    def run(self) -> dict[str, Any]:
        from mitune.adapters.export.write import check_request, export_adapter

        check_request(self.adapter, self.out, self.format, self.rank)
        done = export_adapter(self.load(), self.adapter, self.out, self.format, rank=self.rank)
        print(f"{self.format}: {done.file or done.path}")
        if done.error_largest is not None:
            print(
                f"rank {done.rank}; relative error of the layers' updates: mean "
                f"{done.error_mean:.3g}, largest {done.error_largest:.3g}"
            )
        found = {key: str(v) if isinstance(v, Path) else v for key, v in asdict(done).items()}
        return {"format": self.format, **found}
