"""What a training is watched by: pictures of its model as it is, and their MI on held-out prompts.

Both draw on fixed noise, with a copy of the weights that generation keeps for itself: the model in
training is read, and neither it nor any random state is changed.
"""

import copy
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mitune.errors import UserError
from mitune.evaluation.compare import draw, judged_by, judged_mi
from mitune.evaluation.report import MI_DRAWS, use_sampler
from mitune.families.stable_diffusion import StableDiffusion
from mitune.report.picture import grid
from mitune.sampler import SamplerConfig
from mitune.tuning import adapter


class HeldOutMI:
    """The mean MI of held-out prompts with what the model in training draws for them, judged by the
    base model: ``mi_nats`` of ``mitune eval``.

    The base model judges because steps are compared, and MI under two models does not compare: the
    one in training can raise that of its own pictures by contrasting its two predictions more.

    Args:
        model: that will be trained, still plain: its weights, shared, are the judge's.
        prompts: distinct texts that are not trained on.
        images: pictures of each.
        sampler: how they are drawn; None: as the model is used, its preset's.
        seed: keys their noise, the same at every step.
        draws: of the estimator, for each picture.

    Raises:
        UserError: no prompts, a model with an adapter, or numbers below 1.
    """

    def __init__(
        self,
        model: StableDiffusion,
        prompts: Sequence[str],
        *,
        images: int = 1,
        sampler: SamplerConfig | None = None,
        seed: int = 0,
        draws: int = MI_DRAWS,
    ) -> None:
        check_pictures(prompts, images)
        if draws < 1:
            raise UserError(f"draws is {draws}: expected at least 1")
        if adapter.attached(model.unet):
            raise UserError(
                "the model carries an adapter, and the base model is to judge: load it without one"
            )
        self._model, self._judge = model, copy.copy(model)
        # Its own modules, which will get no adapter, around the same tensors.
        unet = model.unet
        tensors = itertools.chain(unet.parameters(), unet.buffers())
        self._judge.unet = copy.deepcopy(unet, {id(tensor): tensor for tensor in tensors})
        self._images, self._seed, self._draws = images, seed, draws
        self._sampler = sampler or use_sampler(model)
        self.prompts: Sequence[str] = list(prompts)

    @property
    def settings(self) -> Mapping[str, Any]:
        """As plain JSON; the prompts by their number and SHA-256."""
        content = json.dumps(self.prompts).encode()
        return {
            "prompts": len(self.prompts),
            "sha256": hashlib.sha256(content).hexdigest(),
            "images": self._images,
            "sampler": asdict(self._sampler),
            "seed": self._seed,
            "estimator": judged_by(self._judge),
            "draws": self._draws,
        }

    def mi(self) -> float:
        """Nats, of the model as it is now; not finite where a picture is not."""
        drawn = draw(
            self._model, self.prompts, images=self._images, sampler=self._sampler, seed=self._seed
        )
        scores = judged_mi(self._judge, drawn, draws=self._draws)
        return float(scores.double().mean())


class SamplePictures:
    """A grid of pictures of the model as it is: a row for each prompt, a column for each noise.

    Args:
        model: that is trained.
        prompts: distinct texts.
        images: columns.
        sampler: None: as the model is used, its preset's.
        seed: keys the noise, the same at every step.

    Raises:
        UserError: no prompts, one that is given twice, or no images.
    """

    def __init__(
        self,
        model: StableDiffusion,
        prompts: Sequence[str],
        *,
        images: int = 4,
        sampler: SamplerConfig | None = None,
        seed: int = 0,
    ) -> None:
        check_pictures(prompts, images)
        self._model, self._prompts, self._images = model, list(prompts), images
        self._sampler, self._seed = sampler or use_sampler(model), seed

    def __call__(self, path: Path) -> None:
        """Write the PNG."""
        drawn = draw(
            self._model, self._prompts, images=self._images, sampler=self._sampler, seed=self._seed
        )
        pictures = self._model.decode(drawn.latents).split(self._images)
        grid([(p, list(row)) for p, row in zip(self._prompts, pictures, strict=True)], path)


def check_pictures(prompts: Sequence[str], images: int) -> None:
    """Raise UserError unless there are prompts, each once, and a picture of each."""
    if not prompts or not all(prompts):
        raise UserError("a prompt is empty or none is given: expected at least one text")
    if len(set(prompts)) < len(prompts):
        twice = next(p for p in prompts if list(prompts).count(p) > 1)
        raise UserError(f"prompt {twice!r} is given twice: expected each once")
    if images < 1:
        raise UserError(f"images is {images}: expected at least 1")
