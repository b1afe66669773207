"""The options of watching a training."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from mitune.arguments.fields import stands_for
from mitune.config.choices import Tracker
from mitune.config.runtime import Runtime
from mitune.core.prompts import read_prompts

if TYPE_CHECKING:
    from mitune.models.protocol import LatentModel
    from mitune.training.callbacks import Watch

# Neither the noise of a set's candidates, which is trained on, nor that of a comparison later on.
_HELD_OUT_SEED, _SAMPLES_SEED = 2_000_000, 3_000_000


@dataclass(frozen=True, kw_only=True)
class Watching:
    """What to look at between training steps. docs/training.md says what it costs and means."""

    GROUP: ClassVar[str] = "watching"

    validation_prompts: Annotated[tuple[str, ...] | None, stands_for("no pictures")] = None
    """Prompts, a few, of which pictures on the same noise are drawn while training, into
    OUT/samples."""
    validation_steps: int = 50
    """Optimizer steps between pictures of the validation prompts."""
    held_out: Annotated[Path | None, stands_for("no scores")] = None
    """Text file of prompts that are not trained on, one a line: what the model in training draws
    for them is scored by MI under the base model, and the best checkpoint is kept."""
    held_out_every: int = 50
    """Optimizer steps between scores of the held-out prompts."""
    patience: Annotated[int | None, stands_for("never stop early")] = None
    """Stop after so many scores of the held-out prompts in a row that were no higher than the
    best."""
    best: bool = False
    """The result is the adapter with the highest score on the held-out prompts, not the last."""
    log_to: Annotated[Tracker | None, stands_for("nowhere")] = None
    """Where every step's numbers go, and the pictures; the package has to be installed."""

    def watch(self, model: "LatentModel", seed: int, runtime: Runtime) -> "Watch":
        """What these options ask for, of a model still without its adapter; ``runtime`` is what
        draws and scores.

        Raises:
            UserError: as ``read_prompts``, ``HeldOutMI``, ``SamplePictures`` and ``Watch``.
        """
        from mitune.evaluation.held_out import HeldOutMI, SamplePictures
        from mitune.training.callbacks import Watch

        held_out, samples = None, None
        if self.held_out is not None:
            texts = read_prompts(self.held_out)
            held_out = HeldOutMI(model, texts, seed=seed + _HELD_OUT_SEED, runtime=runtime)
        if self.validation_prompts is not None:
            samples = SamplePictures(
                model, self.validation_prompts, seed=seed + _SAMPLES_SEED, runtime=runtime
            )
        return Watch(
            held_out=held_out,
            held_out_every=self.held_out_every,
            patience=self.patience,
            best=self.best,
            samples=samples,
            validation_steps=self.validation_steps,
            log_to=self.log_to,
        )
