"""The verb that scores given pictures: score."""

from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

from mitune.arguments.fields import Given, Positional, Repeated, stands_for
from mitune.cli.commands.given import warn_long
from mitune.cli.options.model import Common
from mitune.cli.options.settings import configured, of_one, settings_of
from mitune.config.sets import ScoreConfig
from mitune.core.errors import UserError, printable
from mitune.core.prompts import check_prompts


@dataclass(frozen=True, kw_only=True)
class Score(Common):
    """Point-wise mutual information of given pictures with prompts, in nats, by re-noising."""

    images: Positional[list[Path]]
    """JPEG, PNG or WebP files; each is cropped at its centre and resized to the model's picture
    size, as `mitune real` does."""
    prompt: Repeated[list[str]]
    """The prompt of all pictures; or repeated, one for each."""
    adapter: Annotated[Path | None, stands_for("none")] = None
    """A LoRA or DoRA on the model that scores."""
    map: Annotated[Path | None, stands_for("no picture")] = None
    """A PNG that shows which parts of each picture its prompt determines, in orange; with
    estimator standard also, in blue, which are less likely with the prompt than without it."""
    settings: Annotated[
        Given,
        settings_of(
            ScoreConfig,
            of_one(ScoreConfig()),
            {"slots", "cuda_graphs", "batch"},
            convention="paper; of a flow model integral",
            t_min="the convention's own",
        ),
    ] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        from mitune.core.images import read_images
        from mitune.evaluation.pictures import grid, overlay
        from mitune.scoring.maps import mi_map
        from mitune.scoring.score import score

        if self.map is not None and self.map.suffix != ".png":
            raise UserError(f"map {self.map}: expected a name that ends in .png")
        if not self.images:
            raise UserError(
                "no pictures: expected JPEG, PNG or WebP files, such as 'mitune score a.png'"
            )
        if len(self.prompt) not in (1, len(self.images)):
            raise UserError(
                f"{len(self.prompt)} prompts for {len(self.images)} pictures: expected one for "
                "all, or one for each"
            )
        check_prompts(self.prompt)
        prompts = self.prompt * len(self.images) if len(self.prompt) == 1 else self.prompt
        model = self.load(self.adapter)
        warn_long(model, prompts)
        pictures = read_images(self.images, model.picture_size)
        # Pictures are compared, and equal ones score equally.
        config = configured(self, ScoreConfig(shared_noise=True))
        latents = model.encode_images(pictures)
        values = score(model, prompts, latents, config).tolist()
        rows: list[dict[str, Any]] = [
            {"image": str(image), "prompt": prompt, "mi_nats": value}
            for image, prompt, value in zip(self.images, prompts, values, strict=True)
        ]
        for row in rows:
            if not isfinite(row["mi_nats"]):
                raise UserError(
                    f"the score of {row['image']} is {row['mi_nats']}: expected a number; the "
                    "model's predictions are not finite, try --precision float32, or another "
                    "adapter"
                )
        for row in rows:
            name, prompt = printable(row["image"]), printable(row["prompt"])
            print(f"{row['mi_nats']:10.3f} nats  {name}  {prompt}")
        if self.map is not None:
            maps = mi_map(model, prompts, latents, config)
            shown = [
                (f"{row['prompt']}: {row['mi_nats']:.1f} nats", [picture, overlay(picture, found)])
                for row, picture, found in zip(rows, pictures, maps, strict=True)
            ]
            grid(shown, self.map)
            print(f"map: {self.map}")
        return {"estimator": config.estimator, "draws": config.draws, "scores": rows}
