"""The verb that trains an adapter: tune."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from mitune.arguments.fields import Given, stands_for
from mitune.cli.commands.given import whole_set
from mitune.cli.commands.repeat import running
from mitune.cli.commands.watching import Watching
from mitune.cli.options.model import Common
from mitune.cli.options.settings import configured, of_presets, settings_of
from mitune.config.runtime import Runtime
from mitune.config.training import TuneConfig


@dataclass(frozen=True, kw_only=True)
class Tune(Common, Watching):
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
    prior: Annotated[Path | None, stands_for("none")] = None
    """Folder that `mitune build --select random` made: pairs on which the model is to stay as it is
    (DreamBooth's prior preservation). Every step takes a batch of them too."""
    worse: Annotated[Path | None, stands_for("none")] = None
    """Folder that `mitune build --select worst` made of the same prompts: train to prefer the pairs
    of --set to its, by Diffusion-DPO, or with --itm-factor by HN-ITM, instead of on the denoising
    loss."""
    settings: Annotated[
        Given,
        settings_of(
            TuneConfig,
            of_presets(lambda preset: preset.tuning),
            prior_weight="1 with --prior",
            dpo_beta="2000 with --worse and no --itm-factor",
            text_encoder_lr="it stays as it is",
            snr_gamma="the plain loss",
        ),
    ] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        from mitune.training.loop import tune
        from mitune.training.processes import rank

        model = self.load()
        preset = model.preset.tuning
        weight = self.settings.get("prior_weight")
        if self.prior is not None and weight is None:
            weight = 1.0
        beta = self.settings.get("dpo_beta")
        if self.worse is not None and beta is None and not self.settings.get("itm_factor"):
            beta = 2000.0
        config = configured(self, preset, prior_weight=weight, dpo_beta=beta)
        watch = self.watch(model, config.seed, Runtime(backend=config.backend, slots=16))
        first = rank() == 0
        with running(self, self.out, self.quiet or not first, first=first) as bars:
            path = tune(
                model,
                whole_set(self.set, model),
                self.out,
                config,
                adapter=self.start,
                real=None if self.real is None else whole_set(self.real, model),
                prior=None if self.prior is None else whole_set(self.prior, model),
                worse=None if self.worse is None else whole_set(self.worse, model),
                watch=watch,
                progress=lambda step, total, loss: bars.step(1, step, total, loss),
            )
        if first:
            print(f"adapter: {path}")
        return {"adapter": str(path)}
