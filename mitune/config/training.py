"""What is trained and how: plain values, validated once."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Any, ClassVar, Literal

from mitune.config.choices import Gradient, LearningRate, Method, TrainingBackend, check_choice
from mitune.config.options import check_types
from mitune.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Settings of one fine-tuning; the defaults are the paper's for SD (MI-Tune, Table 5).

    Raises UserError naming the first setting that is out of range.
    """

    FOLLOWS: ClassVar[Mapping[str, str]] = {"alpha": "rank"}
    """What ``with_options`` takes for an option that is not given: alpha is rank, so that another
    rank does not change the scale of the update."""

    method: Method = "dora"
    """dora trains a low-rank direction and a magnitude per output, lora the direction alone; full
    all weights of the denoiser, without an adapter: rank, alpha and targets are not used."""
    rank: int = 32
    """Rank of the update B A."""
    alpha: float = 32
    """The update is scaled by alpha / rank."""
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Ends of the names of the denoiser's linear and convolution layers that are adapted."""
    lr: float = 1e-4
    """Learning rate of AdamW's first step."""
    text_encoder_lr: float | None = None
    """Train the text encoder too, with this learning rate, often far below the denoiser's, such as
    5e-6; none leaves it as it is. It gets an adapter of the same method, rank and alpha on its
    attention's projections."""
    lr_scheduler: LearningRate = "constant"
    """constant is the paper's; linear falls to 0, so that the adapter does not end wherever the
    last batches' noise threw it."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's two moments."""
    weight_decay: float = 1e-2
    """Decoupled weight decay, on every trained tensor."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    clip: float = 1.0
    """Largest norm of the gradient over all trained tensors together; inf never clips."""
    t_range: tuple[int, int] = (500, 1000)
    """First and end timestep that are trained on, uniformly. The paper: 500 1000; the authors'
    code: 0 1000."""
    snr_gamma: float | None = None
    """Weigh the loss by min-SNR with this gamma, 5 in its paper; none is the plain loss."""
    batch: int = 400
    """Samples of one optimizer step; may exceed the set, whose pairs then repeat."""
    micro_batch: int | Literal["auto"] = 8
    """Samples of one pass; changes speed and memory, not the result beyond rounding. auto: the most
    that fit, found by trying."""
    iterations: int = 300
    """Optimizer steps."""
    gradient: Gradient = "merged"
    """peft goes through peft's modules, merged through the weights with the adapter merged
    (``mitune.training.merged``); the same gradient except for rounding."""
    backend: TrainingBackend = "eager"
    """What runs the denoiser of the merged gradient: torch operation by operation, or
    torch.compile. The same except for rounding; the first micro-batch is compared with eager's."""
    cuda_graphs: bool = False
    """Hold the merged gradient of a micro-batch in a CUDA graph, which is compared with what it
    holds; on a GPU only."""
    gradient_checkpointing: bool = False
    """Compute the denoiser's activations again in the backward pass instead of keeping them: less
    memory, more time, the same result beyond rounding."""
    checkpoint_every: int = 50
    """Steps between checkpoints; changes nothing in the result."""
    keep_checkpoints: int = 2
    """How many checkpoints stay, the newest."""
    seed: int = 0
    """Keys the initial adapter, the order of the pairs, the noise and the timesteps."""
    caption_dropout: float = 0.0
    """Share of samples trained on the empty prompt."""
    real_share: float = 0.0
    """Share x of the set that is real captioned pictures (Table 7); the others are generated."""
    prior_weight: float = 0.0
    """Weight of the loss on the prior pairs, of which each step then takes a batch too (DreamBooth,
    arXiv 2208.12242, Eq. 2); 0 has none."""
    mi_weight: float = 0.0
    """Weight of a term that raises the mutual information of the pairs that are trained on, at the
    price of a second pass (MI-Tune, section 5); small, such as 0.01, as nothing bounds it. 0 has
    none."""
    dpo_beta: float = 0.0
    """Strength of Diffusion-DPO (arXiv 2311.12908): train to prefer each pair to a worse picture of
    its prompt, instead of on its denoising loss. Its authors take 2000 to 5000, at far lower
    learning rates. 0: the denoising loss."""
    itm_factor: float = 0.0
    """Train to match pictures with their prompts better than with wrong ones (HN-ITM, arXiv
    2305.16397): the error under a wrong prompt, or of a worse picture, counts against the loss, up
    to so many times the loss; its authors take 1. 0 has no such term."""
    captured: InitVar[bool | None] = None
    """What ``cuda_graphs`` was called before 0.2."""

    def __post_init__(self, captured: bool | None) -> None:
        if captured is not None:
            warnings.warn("captured is called cuda_graphs now", DeprecationWarning, 3)
            object.__setattr__(self, "cuda_graphs", captured)
        check_types(self)
        for name, known in (
            ("method", Method),
            ("lr_scheduler", LearningRate),
            ("gradient", Gradient),
            ("backend", TrainingBackend),
        ):
            check_choice(name, getattr(self, name), known)
        if self.method == "full" and (self.backend, self.text_encoder_lr) != ("eager", None):
            raise UserError(
                "method full trains the denoiser's own weights: expected backend eager and no "
                "text_encoder_lr, as there is no adapter to merge and none for the text encoder"
            )
        if self.backend != "eager" and self.gradient != "merged":
            raise UserError(
                f"backend is {self.backend} and gradient {self.gradient}: expected gradient "
                "merged, or backend eager"
            )
        if self.cuda_graphs and (
            (self.gradient, self.text_encoder_lr) != ("merged", None) or self.method == "full"
        ):
            raise UserError(
                "cuda_graphs holds the merged gradient of the denoiser alone: expected gradient "
                "merged, method dora or lora and no text_encoder_lr, or cuda_graphs off"
            )
        counts = ("rank", "batch", "iterations", "checkpoint_every", "keep_checkpoints")
        for name in counts if self.micro_batch == "auto" else (*counts, "micro_batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: expected at least 1")
        if self.snr_gamma is not None and not 0 < self.snr_gamma < math.inf:
            raise UserError(f"snr_gamma is {self.snr_gamma}: expected a positive number")
        rates = ("lr",) if self.text_encoder_lr is None else ("lr", "text_encoder_lr")
        for name in ("alpha", *rates, "eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}: expected a positive number")
        if not self.clip > 0:
            raise UserError(f"clip is {self.clip}: expected a positive number, inf for no clipping")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay is {self.weight_decay}: expected 0 or a positive number")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"betas is {self.betas}: expected two numbers, 0 <= beta < 1")
        if len(self.t_range) != 2 or not 0 <= self.t_range[0] < self.t_range[1]:
            raise UserError(
                f"t_range is {self.t_range}: expected first and end timestep, such as (500, 1000)"
            )
        if not self.targets or not all(self.targets):
            raise UserError("targets is empty: expected names of layers, such as to_q")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}: expected 0 <= seed < 2**63")
        if not 0 <= self.caption_dropout <= 1:
            raise UserError(f"caption_dropout is {self.caption_dropout}: expected 0 to 1")
        if not 0 <= self.prior_weight < math.inf:
            raise UserError(f"prior_weight is {self.prior_weight}: expected 0 or a positive number")
        if not 0 <= self.mi_weight < math.inf:
            raise UserError(f"mi_weight is {self.mi_weight}: expected 0 or a positive number")
        if not 0 <= self.dpo_beta < math.inf:
            raise UserError(f"dpo_beta is {self.dpo_beta}: expected 0 or a positive number")
        if not 0 <= self.itm_factor < math.inf:
            raise UserError(f"itm_factor is {self.itm_factor}: expected 0 or a positive number")
        contrasts = {"dpo_beta": self.dpo_beta, "itm_factor": self.itm_factor}
        others = (self.mi_weight, self.prior_weight, self.real_share)
        if any(contrasts.values()) and (
            all(contrasts.values())
            or any(others)
            or self.method == "full"
            or self.text_encoder_lr is not None
        ):
            name, value = next((n, v) for n, v in contrasts.items() if v)
            raise UserError(
                f"{name} is {value}: expected an adapter of the denoiser alone, and neither "
                "mi_weight, prior_weight and real_share nor both of dpo_beta and itm_factor, as "
                "one picture is compared with another"
            )
        if not 0 <= self.real_share < 1:
            raise UserError(
                f"real_share is {self.real_share}: expected 0 <= real_share < 1; to train on real "
                "pictures alone, give their set as the set"
            )

    @property
    def adamw(self) -> dict[str, Any]:
        """The arguments of ``torch.optim.AdamW``, the learning rate of its first step among
        them."""
        return {
            "lr": self.lr,
            "betas": self.betas,
            "eps": self.eps,
            "weight_decay": self.weight_decay,
        }

    def lr_at(self, step: int, first: float | None = None) -> float:
        """Learning rate of optimizer step ``step``, 0 <= step < iterations, of tensors whose first
        step has ``first`` (None: lr), as ``diffusers.optimization`` has it without warm-up. A
        function of the step alone, so there is no state to resume."""
        left = 1 - step / self.iterations
        return (first or self.lr) * (left if self.lr_scheduler == "linear" else 1.0)
