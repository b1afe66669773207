"""What a training is watched by: pictures of its model as it is, and their MI on held-out prompts.

Both draw on fixed noise, with a copy of the weights that generation keeps for itself: the model in
training is read, and neither it nor any random state is changed.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mitune.adapters import adapter
from mitune.config.options import check_positive
from mitune.config.runtime import Runtime
from mitune.config.sampling import SamplerConfig
from mitune.config.sets import RealConfig
from mitune.core.errors import UserError
from mitune.evaluation.compare import Images, draw, judged_mi
from mitune.evaluation.pictures import grid
from mitune.evaluation.report import MI_DRAWS, use_sampler
from mitune.models.protocol import LatentModel, denoiser_of, text_encoders, with_networks
from mitune.runtime.prepared import prepare

_RUNTIME = Runtime(slots=16)  # room for the training beside them


class HeldOutMI:
    """The mean MI of held-out prompts with what the model in training draws for them, judged by the
    base model: ``mi_nats`` of ``mitune eval``.

    The base model judges because steps are compared, and MI under two models does not compare: the
    one in training can raise that of its own pictures by contrasting its two predictions more.

    Args:
        model: that will be trained, still plain: a copy of it is the judge.
        prompts: distinct texts that are not trained on.
        images: pictures of each.
        sampler: how they are drawn; None: as the model is used, its preset's.
        seed: keys their noise, the same at every step.
        draws: of the estimator, for each picture.
        runtime: what runs the denoiser, and pictures in flight; changes speed and memory, not
            results beyond rounding. None: 16 pictures, eagerly.

    Raises:
        UserError: no prompts, one that is given twice, a model with an adapter, or numbers below 1.
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
    ) -> None:
        if draws < 1:
            raise UserError(f"draws is {draws}: expected at least 1")
        if adapter.attached(model):
            raise UserError(
                "the model carries an adapter, and the base model is to judge: load it without one"
            )
        self._drawn = _Drawn(model, prompts, images, sampler, seed, runtime)
        # Its own: an adapter changes the modules of the model in training, method full its weights.
        trained = {model.denoiser: denoiser_of(model), **text_encoders(model)}
        own = {name: copy.deepcopy(network) for name, network in trained.items()}
        self._judge, self._draws = with_networks(model, own), draws
        self.prompts: Sequence[str] = list(prompts)

    @property
    def settings(self) -> Mapping[str, Any]:
        """As plain JSON; the prompts by their number and SHA-256."""
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
        """Nats, of the model as it is now; not finite where a picture is not."""
        pictures = self._drawn.now()
        scores = judged_mi(
            self._judge,
            pictures,
            draws=self._draws,
            batch=min(self._drawn.runtime.slots, len(pictures.prompts)),
            runtime=self._drawn.runtime,
        )
        return float(scores.double().mean())


class SamplePictures:
    """A grid of pictures of the model as it is: a row for each prompt, a column for each noise.

    Args:
        model: that is trained.
        prompts: distinct texts.
        images: columns.
        sampler: None: as the model is used, its preset's.
        seed: keys the noise, the same at every step.
        runtime: what runs the denoiser, and pictures in flight; changes speed and memory, not
            results beyond rounding. None: 16 pictures, eagerly.

    Raises:
        UserError: no prompts, one that is given twice, or numbers below 1.
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
    ) -> None:
        self._drawn = _Drawn(model, prompts, images, sampler, seed, runtime)

    def __call__(self, path: Path) -> None:
        """Write the PNG."""
        prompts, images = self._drawn.prompts, self._drawn.images
        rows = self._drawn.model.decode(self._drawn.now().latents).split(images)
        grid([(p, list(row)) for p, row in zip(prompts, rows, strict=True)], path)


class _Drawn:
    """What is drawn, each time on the same noise."""

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
        # Now: the memory that its copy of the weights takes is none for a micro-batch to fill.
        prepare(model, self.runtime)

    def now(self) -> Images:
        """Latents of the model as it is."""
        return draw(
            self.model,
            self.prompts,
            images=self.images,
            sampler=self.sampler,
            seed=self.seed,
            runtime=self.runtime,
        )
