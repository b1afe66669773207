"""Watch a training run: draw pictures with the current model, and measure their MI on held-out
prompts.

Both draw from fixed noise, with a copy of the weights that generation keeps. They only read the
model in training and change neither it nor any random state.
"""

import copy
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mitune.adapters import adapter
from mitune.config.options import check_positive
from mitune.config.runtime import Runtime
from mitune.config.sampling import SamplerConfig
from mitune.config.sets import RealConfig
from mitune.core.errors import UserError
from mitune.evaluation.compare import judged_mi
from mitune.evaluation.drawing import Images, draw
from mitune.evaluation.pictures import grid
from mitune.evaluation.report import MI_DRAWS, use_sampler
from mitune.models.protocol import LatentModel, denoiser_of, text_encoders, with_networks
from mitune.runtime.prepared import prepare

_RUNTIME = Runtime(slots=16)  # leaves memory for the training


class HeldOutMI:
    """The mean MI of held-out prompts with the pictures that the model in training draws for them,
    judged by the base model: ``mi_nats`` of ``mitune eval``.

    The base model is the judge because steps are compared, and MI under two models is not
    comparable: a model in training can raise the MI of its own pictures by increasing the contrast
    between its two predictions.

    Args:
        model: the model that will be trained, still without an adapter; a copy of it is the judge.
        prompts: distinct texts that are not trained on.
        images: number of pictures for each prompt.
        sampler: how to draw them; None takes ``use_sampler`` of the model.
        seed: keys their noise, which is the same at every step.
        draws: draws of the estimator for each picture.
        runtime: how to run the denoiser, and the number of pictures in flight; changes speed and
            memory, but results only by rounding. None: 16 pictures, backend eager.
        slots: the pictures in flight, by their former name; deprecated.

    Raises:
        UserError: if there are no prompts, one is empty or given twice, the model carries an
            adapter, or a number is below 1.
    """

    def __init__(
        self,
        model: LatentModel,
        prompts: Sequence[str],
        *,
        images: int = 1,
        sampler: SamplerConfig | None = None,
        seed: int = 0,
        draws: int = MI_DRAWS,
        runtime: Runtime | None = None,
        slots: int | None = None,
    ) -> None:
        if draws < 1:
            raise UserError(f"draws is {draws}: expected at least 1")
        if adapter.attached(model):
            raise UserError(
                "the model carries an adapter, and the base model is to judge: load it without one"
            )
        self._drawn = _Drawn(model, prompts, images, sampler, seed, _sized(runtime, slots))
        # The judge needs its own copy: training adds an adapter to the model's modules or, with
        # method full, changes its weights.
        trained = {model.denoiser: denoiser_of(model), **text_encoders(model)}
        own = {name: copy.deepcopy(network) for name, network in trained.items()}
        self._judge, self._draws = with_networks(model, own), draws
        self.prompts: Sequence[str] = list(prompts)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the measure as plain JSON; the prompts by their number and SHA-256."""
        content = json.dumps(self.prompts).encode()
        return {
            "prompts": len(self.prompts),
            "sha256": hashlib.sha256(content).hexdigest(),
            "images": self._drawn.images,
            "sampler": asdict(self._drawn.sampler),
            "seed": self._drawn.seed,
            "estimator": RealConfig.of(self._judge.preset).score.estimator,
            "draws": self._draws,
        }

    def mi(self) -> float:
        """The mean MI of the current model, in nats; not finite if a picture is not finite."""
        pictures = self._drawn.now()
        scores = judged_mi(
            self._judge,
            pictures,
            draws=self._draws,
            batch=min(self._drawn.runtime.count, len(pictures.prompts)),
            runtime=self._drawn.runtime,
        )
        return float(scores.double().mean())


class SamplePictures:
    """A grid of pictures by the current model: a row for each prompt, a column for each noise.

    Args:
        model: the model in training.
        prompts: distinct texts.
        images: number of columns.
        sampler: how to draw the pictures; None takes ``use_sampler`` of the model.
        seed: keys the noise, which is the same at every step.
        runtime: how to run the denoiser, and the number of pictures in flight; changes speed and
            memory, but results only by rounding. None: 16 pictures, backend eager.
        slots: the pictures in flight, by their former name; deprecated.

    Raises:
        UserError: if there are no prompts, one is empty or given twice, or a number is below 1.
    """

    def __init__(
        self,
        model: LatentModel,
        prompts: Sequence[str],
        *,
        images: int = 4,
        sampler: SamplerConfig | None = None,
        seed: int = 0,
        runtime: Runtime | None = None,
        slots: int | None = None,
    ) -> None:
        self._drawn = _Drawn(model, prompts, images, sampler, seed, _sized(runtime, slots))

    def __call__(self, path: Path) -> None:
        """Write the PNG."""
        prompts, images = self._drawn.prompts, self._drawn.images
        rows = self._drawn.model.decode(self._drawn.now().latents).split(images)
        grid([(p, list(row)) for p, row in zip(prompts, rows, strict=True)], path)


def _sized(runtime: Runtime | None, slots: int | None) -> Runtime | None:
    """``runtime``; with the ``slots`` that were an argument of their own before 0.2."""
    if slots is None:
        return runtime
    warnings.warn("slots is a part of runtime now", DeprecationWarning, 3)
    return replace(runtime or _RUNTIME, slots=slots)


class _Drawn:
    """Draws the same prompts from the same noise each time."""

    def __init__(
        self,
        model: LatentModel,
        prompts: Sequence[str],
        images: int,
        sampler: SamplerConfig | None,
        seed: int,
        runtime: Runtime | None,
    ) -> None:
        if not prompts or not all(prompts):
            raise UserError("a prompt is empty or none is given: expected at least one text")
        if len(set(prompts)) < len(prompts):
            twice = next(p for p in prompts if list(prompts).count(p) > 1)
            raise UserError(f"prompt {twice!r} is given twice: expected each once")
        check_positive(images=images)
        self.model, self.prompts, self.images = model, list(prompts), images
        self.sampler, self.seed = sampler or use_sampler(model), seed
        self.runtime = runtime or _RUNTIME
        # Prepare now: the copy of the weights must be in memory before a micro-batch size is tried.
        prepare(model, self.runtime)

    def now(self) -> Images:
        """Draw the latents with the current model."""
        return draw(
            self.model,
            self.prompts,
            images=self.images,
            sampler=self.sampler,
            seed=self.seed,
            runtime=self.runtime,
        )
