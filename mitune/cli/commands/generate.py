"""The verb that draws pictures: generate."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from mitune.arguments.fields import Given, Repeated, stands_for
from mitune.cli.commands.given import given_prompts, warn_long
from mitune.cli.commands.repeat import check_out, running_share
from mitune.cli.defaults import of_preset
from mitune.cli.options.model import Common
from mitune.cli.options.settings import configured, of_one, settings_of
from mitune.config.choices import Acting
from mitune.config.runtime import Runtime
from mitune.config.shard import Shard
from mitune.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Generate(Common):
    """Draw pictures of prompts into a folder, by plain guidance or another method, and keep the
    best of several by mutual information."""

    prompt: Repeated[list[str]] = field(default_factory=list)
    """A prompt; may be repeated."""
    prompts: Annotated[Path | None, stands_for("the shapes world's test list")] = None
    """Text file of prompts, in place of --prompt."""
    limit: Annotated[int | None, stands_for("all")] = None
    """Only the first so many prompts of the file."""
    out: Path
    """Folder of the pictures, PROMPT_000000.png and so on below samples; the same command goes on
    after an interruption."""
    adapter: Annotated[Path | None, stands_for("none")] = None
    """A LoRA or DoRA on the model."""
    method: Acting = "guidance"
    """What acts while a picture is sampled beside guidance."""
    images: int = 1
    """Pictures of each prompt."""
    best_of: int = 1
    """Each picture is the best by mutual information of so many."""
    shard: Annotated[str | None, stands_for("all of them")] = None
    """NUMBER/OF, such as 0/4: draw this share of the pictures; as many other processes draw the
    other shares into the same folder."""
    seed: int = 0
    """Keys all noise: equal seeds, equal pictures."""
    steps: Annotated[int | None, of_preset("sampler.steps")] = None
    """Denoising steps."""
    guidance: Annotated[float | None, of_preset("use_guidance")] = None
    """Classifier-free guidance scale."""
    settings: Annotated[Given, settings_of(Runtime, of_one(Runtime()), {"cuda_graphs"})] = field(
        default_factory=dict
    )

    def run(self) -> dict[str, Any]:
        from mitune.adapters.adapter_file import digest
        from mitune.config.sets import GenerateConfig
        from mitune.core.prompts import check_prompts
        from mitune.evaluation.report import use_sampler
        from mitune.methods.picture_files import (
            check_manifest,
            draw_pictures,
            file_names,
            picture_settings,
        )
        from mitune.methods.sampling.known import find_method

        if self.prompt and self.prompts is not None:
            raise UserError("--prompt and --prompts are given: expected one of the two")
        if self.images < 1 or self.best_of < 1:
            raise UserError(
                f"images is {self.images}, best_of is {self.best_of}: expected at least 1 of each"
            )
        prompts = self.prompt or given_prompts(self, self.prompts, "test")[: self.limit]
        shard = Shard.read(self.shard)
        check_prompts(prompts)
        prompts = list(dict.fromkeys(prompts))
        check_out(self.out)
        method = find_method(self.method)
        model = self.load(self.adapter)
        warn_long(model, prompts)
        config = GenerateConfig(
            candidates=self.images,
            sampler=use_sampler(model, steps=self.steps, guidance=self.guidance),
            seed=self.seed,
            scored=self.best_of > 1,
            runtime=configured(self, Runtime()),
        )
        adapter = None if self.adapter is None else digest(self.adapter)
        settings = picture_settings(
            model, config, adapter=adapter, method=self.method, best_of=self.best_of
        )
        check_manifest(self.out, "pictures.json", {"prompts": prompts, **settings})
        folder = self.out / "samples"
        with running_share(self, self.out, self.quiet, shard) as bars:
            draw_pictures(
                model,
                prompts,
                folder,
                config,
                method=method,
                best_of=self.best_of,
                shard=shard,
                progress=lambda done, of: bars.work("pictures", done, of),
            )
        files = [str(folder / name) for name in file_names(prompts, self.images)]
        print(f"{len(files)} pictures of {len(prompts)} prompts: {folder}")
        return {"pictures": files}
