"""The verb that trains an adapter: tune."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from mitune.arguments.fields import Former, stands_for
from mitune.cli.commands.given import whole_set
from mitune.cli.commands.repeat import running
from mitune.cli.commands.watching import Watching
from mitune.cli.defaults import of_preset
from mitune.cli.options.configured import configured
from mitune.cli.options.model import Common
from mitune.cli.options.training import Tuning
from mitune.config.choices import TrainingBackend
from mitune.config.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class Tune(Common, Tuning, Watching):
    """Train a DoRA or LoRA adapter on a fine-tuning set; it resumes, and diffusers'
    load_lora_weights reads it.

    On several GPUs: torchrun --nproc-per-node N -m mitune.cli tune ..."""

    set: Path
    """Folder that `mitune build` made."""
    out: Path
    """Folder of the adapter."""
    start: Annotated[Path | None, stands_for("a new adapter")] = None
    """Adapter to go on from."""
    real: Annotated[Path | None, stands_for("none")] = None
    """Folder that `mitune real` made: its best join the pairs of --set."""
    real_share: float = 0.0
    """Share of all pairs that is real; the paper tries 0.25, 0.5 and 0.9."""
    backend: Annotated[TrainingBackend | None, of_preset("tuning.backend")] = None
    """What runs the denoiser of the merged gradient; inductor compiles for some minutes first and
    keeps that for later runs."""
    cuda_graphs: Annotated[bool, Former("captured")] = False
    """Hold a micro-batch in a CUDA graph; on a GPU only. The same result."""
    prior: Annotated[Path | None, stands_for("none")] = None
    """Folder that `mitune build --select random` made: pairs on which the model is to stay as it is
    (DreamBooth's prior preservation). Every step takes a batch of them too."""
    prior_weight: Annotated[float | None, stands_for("1 with --prior")] = None
    """Weight of the loss on the pairs of --prior."""
    seed: int = 0
    """Keys the adapter's start, the batches, the noise and the timesteps."""

    def run(self) -> dict[str, Any]:
        from mitune.training.loop import tune
        from mitune.training.processes import rank

        model = self.load()
        weight = 1.0 if self.prior and self.prior_weight is None else self.prior_weight
        preset = model.preset.tuning
        config = configured(self, preset, prior_weight=weight)
        watch = self.watch(model, self.seed, Runtime(backend=config.backend, slots=16))
        first = rank() == 0
        with running(self, self.out, self.quiet, first) as bars:
            path = tune(
                model,
                whole_set(self.set, model),
                self.out,
                config,
                adapter=self.start,
                real=None if self.real is None else whole_set(self.real, model),
                prior=None if self.prior is None else whole_set(self.prior, model),
                watch=watch,
                progress=lambda step, total, loss: bars.step(1, step, total, loss),
            )
        if first:
            print(f"adapter: {path}")
        return {"adapter": str(path)}
