"""Options that several verbs share. None as a default always means the model's own preset (the
paper's numbers for Stable Diffusion)."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mitune.errors import UserError
from mitune.families.stable_diffusion import StableDiffusion
from mitune.generate.prune import PRUNING, PruneConfig
from mitune.load import load
from mitune.preset import Preset
from mitune.sampler import SamplerConfig
from mitune.tuning import TuneConfig


@dataclass(frozen=True, kw_only=True)
class Source:
    """Which model, and where."""

    model: str = "shapes"
    """"shapes" is the embedded model; else a diffusers StableDiffusionPipeline folder, or a name on
    the hub."""
    variant: str | None = None
    """Weight variant of a model folder, such as fp16."""
    device: str | None = None
    """cpu, cuda or cuda:N. None: a GPU where there is one."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def load(self, adapter: Path | None = None) -> StableDiffusion:
        """The model in float32, with ``adapter`` on it if any."""
        return load(self.model, adapter=adapter, device=self.device, variant=self.variant)


@dataclass(frozen=True, kw_only=True)
class Common(Source):
    """Which model, where, and how to talk."""

    precision: str = "float32"
    """Of the UNet: float32, bfloat16, float16, or bf16-mixed, which generates with bfloat16
    products in an otherwise float32 model. Latents and scores stay float32."""
    quiet: bool = False
    """No progress bars."""

    def load(self, adapter: Path | None = None) -> StableDiffusion:
        """The model, with ``adapter`` on it if any."""
        return load(
            self.model,
            adapter=adapter,
            device=self.device,
            precision=self.precision,
            variant=self.variant,
        )


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are sampled."""

    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """Classifier-free guidance of the candidates; the score never sees it."""
    scheduler: str | None = None
    """ddpm (the paper's ancestral sampler), ddim or euler."""
    seed: int = 0
    """Keys all noise: equal seeds, equal candidates."""
    slots: int = 64
    """Candidates in flight: changes speed and memory, not results."""
    backend: str = "eager"
    """What runs the UNet while pictures are generated: eager, or inductor, which compiles for a
    minute first and is kept."""
    attention: str = "auto"
    """auto, sdpa, math, or xformers where it is installed."""

    def sampler(self, preset: SamplerConfig) -> SamplerConfig:
        """The preset with the options given."""
        given: dict[str, Any] = {
            "steps": self.steps,
            "guidance": self.guidance,
            "scheduler": self.scheduler,
        }
        return replace(preset, **{k: v for k, v in given.items() if v is not None})


@dataclass(frozen=True, kw_only=True)
class Pool(Sampling):
    """Which candidates are made, and how they are ranked."""

    prompts: Path | None = None
    """Text file, one prompt a line (of tab-separated lines the first column). None: the shapes
    world's own list."""
    limit: int | None = None
    """Only the first so many prompts."""
    candidates: int | None = None
    """Pool size M of each prompt."""
    keep: int | None = None
    """How many of each pool are kept, the best first."""
    select: str = "mi"
    """mi; for controls also random and worst."""
    estimator: str | None = None
    """What ranks a pool. trajectory: Eq. 2 along the sampler's path, free; orthogonal, standard: by
    re-noising."""
    draws: int | None = None
    """Re-noising draws of the estimators that re-noise."""
    convention: str | None = None
    """Weights of the score: paper (Eq. 2) or reference (the authors' code: no alpha_t, only t >
    50)."""
    t_min: int | None = None
    """Only steps with t > t_min count for the score."""
    prune: str | None = None
    """Drop candidates before their score is complete (not exact; needs --estimator trajectory):
    halving, threshold, or draft, a cheaper pass whose best are made once more. None: drop
    nobody."""
    rungs: tuple[str, ...] | None = None
    """Where pruning looks: STEPS:CANDIDATES that go on, such as 25:20 35:10 40:5; for threshold
    steps alone, such as 10 20 30. None: shares of the steps that count."""
    confidence: float | None = None
    """For threshold: with which a dropped candidate would not have been the better one."""
    verify: int | None = None
    """For draft: how many of each pool are made once more, exactly."""
    draft_precision: str | None = None
    """For draft: the UNet's precision meanwhile."""
    draft_steps: int | None = None
    """For draft: denoising steps meanwhile."""
    audit: float | None = None
    """Share of the prompts that pruning leaves alone, and that tell what was lost."""

    settle: float | None = None
    """In half precision: make candidates within so many standard deviations of the k-th best once
    more in float32, such as 0.4, so that rounding decides no near tie. None: leave it to
    rounding."""

    def pruning(self) -> PruneConfig | None:
        """What these options ask for.

        Raises:
            UserError: values out of range, or options of pruning without --prune.
        """
        given: dict[str, Any] = {
            "rungs": None if self.rungs is None else tuple(map(_rung, self.rungs)),
            "confidence": self.confidence,
            "verify": self.verify,
            "draft_precision": self.draft_precision,
            "draft_steps": self.draft_steps,
            "audit": self.audit,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if self.prune is None:
            if given:
                raise UserError(
                    f"--{next(iter(given)).replace('_', '-')} is given without --prune: add "
                    f"--prune with one of {', '.join(PRUNING)}"
                )
            return None
        policy: Any = self.prune  # PruneConfig names those there are
        return PruneConfig(policy=policy, **given)

    def sampler(self, preset: SamplerConfig) -> SamplerConfig:
        """The preset with the options given, the score's weights among them."""
        given: dict[str, Any] = {"convention": self.convention, "t_min": self.t_min}
        return replace(super().sampler(preset), **{k: v for k, v in given.items() if v is not None})

    def pool(self, preset: Preset) -> dict[str, Any]:
        """What ``build_set`` and ``align`` take of these options."""
        return {
            "candidates": self.candidates,
            "keep": self.keep,
            "select": self.select,
            "estimator": self.estimator,
            "draws": self.draws,
            "sampler": self.sampler(preset.sampler),
            "seed": self.seed,
            "slots": self.slots,
            "backend": self.backend,
            "attention": self.attention,
            "prune": self.pruning(),
            "settle": self.settle,
        }


def _rung(text: str) -> tuple[int, int]:
    steps, colon, left = text.partition(":")
    if not (steps.isdecimal() and (left.isdecimal() or not colon)):
        raise UserError(f"rung {text!r}: expected STEPS:CANDIDATES, such as 25:20")
    return int(steps), int(left or 1)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Hyper-parameters of the adapter."""

    method: str | None = None
    """dora or lora; full trains all weights of the UNet, as a control."""
    rank: int | None = None
    """Rank of the adapter."""
    alpha: float | None = None
    """The update is scaled by alpha / rank. None: equal to --rank where that is given."""
    targets: tuple[str, ...] | None = None
    """Ends of the names of the layers that are adapted, such as to_q."""
    t_range: tuple[int, int] | None = None
    """Timesteps FIRST END that are trained on. The paper: 500 1000; the authors' code: 0 1000."""
    caption_dropout: float | None = None
    """Share of samples trained on the empty prompt."""
    lr: float | None = None
    """Learning rate of AdamW."""
    text_encoder_lr: float | None = None
    """Train the text encoder too, with this learning rate, often far below --lr, such as 5e-6.
    None: it stays as it is."""
    lr_scheduler: str | None = None
    """constant, or linear, which falls to 0."""
    iterations: int | None = None
    """Optimizer steps."""
    batch: int | None = None
    """Pairs in one optimizer step."""
    micro_batch: int | Literal["auto"] | None = None
    """Pairs in one pass; changes memory, not the result. auto: the most that fit."""
    snr_gamma: float | None = None
    """Weigh the loss by min-SNR with this gamma; None is the plain loss."""
    gradient: str | None = None
    """peft: through peft's own modules; merged: through the merged weights. The same but for
    rounding and speed."""
    captured: bool = False
    """Hold a micro-batch in a CUDA graph; on a GPU only. The same result."""

    def config(self, preset: TuneConfig, seed: int, backend: str | None = None) -> TuneConfig:
        """The preset with the options given; ``backend`` of the training."""
        given: dict[str, Any] = {
            "method": self.method,
            "rank": self.rank,
            "alpha": self.rank if self.alpha is None else self.alpha,
            "targets": self.targets,
            "t_range": self.t_range,
            "caption_dropout": self.caption_dropout,
            "lr": self.lr,
            "text_encoder_lr": self.text_encoder_lr,
            "lr_scheduler": self.lr_scheduler,
            "gradient": self.gradient,
            "backend": backend,
            "snr_gamma": self.snr_gamma,
            "captured": self.captured,
        }
        given |= {"iterations": self.iterations, "batch": self.batch}
        size = preset.micro_batch
        micro_batch = self.micro_batch or (
            size if size == "auto" else min(size, self.batch or preset.batch)
        )
        given |= {"micro_batch": micro_batch, "seed": seed}
        return replace(preset, **{k: v for k, v in given.items() if v is not None})
