"""The verb that compares base and adapter: eval."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from mitune.arguments.fields import Given, stands_for
from mitune.cli.commands.given import given_prompts, warn_long
from mitune.cli.commands.repeat import check_out, leave_command
from mitune.cli.defaults import of_preset
from mitune.cli.options.model import Common
from mitune.cli.options.settings import configured, of_one, settings_of
from mitune.config.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class Eval(Common):
    """Compare base and adapter on the same prompts and the same noise, with standard errors."""

    adapter: Path
    """The LoRA or DoRA to compare with its base."""
    prompts: Annotated[Path | None, stands_for("the shapes world's test list")] = None
    """Text file of held-out prompts."""
    limit: Annotated[int | None, stands_for("all")] = None
    """Only the first so many prompts."""
    images: int = 4
    """Pictures of each prompt and seed."""
    seeds: int = 1
    """Seeds of the noise."""
    seed: int = 1_000_000
    """The first of them; far from a set's seeds, so that no noise is shared with it."""
    steps: Annotated[int | None, of_preset("sampler.steps")] = None
    """Denoising steps."""
    guidance: Annotated[float | None, of_preset("use_guidance")] = None
    """Guidance at which both are used."""
    scorers: tuple[str, ...] = ()
    """Further metrics, each NAME or NAME=WEIGHTS (folder or hub name): clip, hps, pick, blip-vqa,
    blip-vqa-hf, image-reward, vqa-score, soft-tifa=MODEL,QUESTIONS, spatial, or a plug-in's."""
    out: Annotated[Path | None, stands_for("stdout alone")] = None
    """Folder for eval.json and eval.png."""
    settings: Annotated[Given, settings_of(Runtime, of_one(Runtime()), {"cuda_graphs"})] = field(
        default_factory=dict
    )

    def run(self) -> dict[str, Any]:
        from mitune.adapters import adapter
        from mitune.evaluation.report import compare_adapter
        from mitune.scorers.known import find_scorer

        prompts = given_prompts(self, self.prompts, "test")[: self.limit]
        if self.out is not None:
            check_out(self.out)
        model = self.load(self.adapter)  # fails before the base is drawn
        scorers = [find_scorer(name, model) for name in self.scorers]
        adapter.detach(model)
        warn_long(model, prompts)
        result = compare_adapter(
            model,
            self.adapter,
            prompts,
            out=self.out,
            images=self.images,
            seeds=range(self.seed, self.seed + self.seeds),
            steps=self.steps,
            guidance=self.guidance,
            runtime=configured(self, Runtime()),
            scorers=scorers,
        )
        if self.out is not None:
            leave_command(self, self.out)
        return result
