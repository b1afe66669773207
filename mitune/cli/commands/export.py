"""The verb that writes an adapter, or a set's pictures, for another program: export."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from mitune.arguments.fields import stands_for
from mitune.cli.commands.push import upload
from mitune.cli.options.model import Source
from mitune.config.choices import Form, PictureForm
from mitune.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Export(Source):
    """Write an adapter, or the pictures of a set, in the form that another program reads.

    Of --adapter, with a model card beside it: diffusers; comfyui (LoRA and DoRA, exact in ComfyUI
    at strength 1); kohya (plain LoRA, which every program reads; of a DoRA an approximation, with
    its error reported); merged (as 'mitune merge'). docs/adapters.md says more.

    Of --set: pairs (the best and the worst candidate of each pool, in Parquet as Diffusion-DPO's
    trainers read it); imagefolder and webdataset (the selected pictures with their prompts).
    """

    adapter: Annotated[Path | None, stands_for("none")] = None
    """Folder or file of the LoRA or DoRA; with --set the one that drew its candidates."""
    set: Annotated[Path | None, stands_for("none")] = None
    """Folder that `mitune build` made."""
    out: Path
    """New folder; its name becomes that of an adapter's file in it."""
    format: Form | PictureForm
    """What the other program reads."""
    rank: Annotated[int | None, stands_for("twice the rank of a DoRA, a LoRA's own")] = None
    """For kohya: rank of the plain LoRA."""
    push_to_hub: Annotated[str | None, stands_for("nothing leaves this machine")] = None
    """Then upload the folder, to this private repository, user/name (`mitune push` does the same
    later)."""

    def run(self) -> dict[str, Any]:
        if self.push_to_hub is not None:
            from mitune.methods.hub import check_name

            check_name(self.push_to_hub)
        pictures = self.format in get_args(PictureForm)
        if pictures and self.set is None:
            raise UserError(f"format {self.format} is of a set's pictures: give --set")
        if not pictures and (self.set is not None or self.adapter is None):
            raise UserError(f"format {self.format} is of an adapter: give --adapter, and no --set")
        done = self._pictures() if pictures else self._adapter()
        if self.push_to_hub is not None:
            done |= upload(self.out, self.push_to_hub, public=False)
        return done

    def _pictures(self) -> dict[str, Any]:
        from mitune.adapters.adapter_file import digest
        from mitune.adapters.export.folder import check_new
        from mitune.cli.commands.given import whole_set
        from mitune.methods.pictures import export_pictures
        from mitune.sets import FineTuningSet

        assert self.set is not None
        check_new(self.out)
        # Losers are drawn again, in the precision of the others.
        own = FineTuningSet.open(self.set).settings.get("precision", "float32")
        model = self._loader(self.adapter, own, offload=False)()
        form: Any = self.format
        count = export_pictures(
            model,
            whole_set(self.set, model),
            self.out,
            form,
            adapter=None if self.adapter is None else digest(self.adapter),
        )
        what = "pairs" if form == "pairs" else "pictures"
        print(f"{form}: {count} {what} in {self.out}")
        return {"format": form, "path": str(self.out), what: count}

    def _adapter(self) -> dict[str, Any]:
        from mitune.adapters.export.write import check_request, export_adapter

        assert self.adapter is not None
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
