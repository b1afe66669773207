"""Hyper-parameters of the adapter."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from mitune.arguments.fields import stands_for
from mitune.cli.defaults import of_preset
from mitune.config.choices import Gradient, LearningRate, Method


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Hyper-parameters of the adapter."""

    GROUP: ClassVar[str] = "training"

    method: Annotated[Method | None, of_preset("tuning.method")] = None
    """Kind of adapter; full trains all weights of the denoiser, as a control."""
    rank: Annotated[int | None, of_preset("tuning.rank")] = None
    """Rank of the adapter."""
    alpha: Annotated[float | None, stands_for("--rank")] = None
    """The update is scaled by alpha / rank."""
    targets: Annotated[tuple[str, ...] | None, of_preset("tuning.targets")] = None
    """Ends of the names of the layers that are adapted."""
    t_range: Annotated[tuple[int, int] | None, of_preset("tuning.t_range")] = None
    """First and end timestep that are trained on. The paper: 500 1000; the authors' code: 0
    1000."""
    caption_dropout: Annotated[float | None, of_preset("tuning.caption_dropout")] = None
    """Share of samples trained on the empty prompt."""
    lr: Annotated[float | None, of_preset("tuning.lr")] = None
    """Learning rate of AdamW."""
    text_encoder_lr: Annotated[float | None, stands_for("it stays as it is")] = None
    """Train the text encoder too, with this learning rate, often far below --lr, such as 5e-6."""
    lr_scheduler: Annotated[LearningRate | None, of_preset("tuning.lr_scheduler")] = None
    """Course of the learning rate; linear falls to 0."""
    iterations: Annotated[int | None, of_preset("tuning.iterations")] = None
    """Optimizer steps."""
    batch: Annotated[int | None, of_preset("tuning.batch")] = None
    """Pairs in one optimizer step."""
    micro_batch: Annotated[int | Literal["auto"] | None, of_preset("tuning.micro_batch")] = None
    """Pairs in one pass; changes memory, not the result. auto: the most that fit."""
    snr_gamma: Annotated[float | None, stands_for("the plain loss")] = None
    """Weigh the loss by min-SNR with this gamma, 5 in its paper."""
    gradient: Annotated[Gradient | None, of_preset("tuning.gradient")] = None
    """peft: through peft's own modules; merged: through the merged weights. The same but for
    rounding and speed."""
