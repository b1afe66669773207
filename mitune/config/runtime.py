"""How networks are run, which changes speed, memory and rounding and nothing else."""

from dataclasses import dataclass
from typing import Literal

from mitune.config.choices import Attention, Backend, Implementation, Precision, check_choice
from mitune.config.options import check_positive, check_types

AUTO: Literal["auto"] = "auto"


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What runs the denoiser."""

    backend: Backend = "eager"
    """What runs the denoiser, for generation, scores and align's training: eager, operation by
    operation; inductor compiles for a minute or more first and keeps the result; tensorrt needs a
    GPU, and has no training."""
    attention: Attention = "auto"
    """Implementation of the denoiser's attention; xformers where it is installed."""
    precision: Precision | None = None
    """Of the denoiser; None is the model's own."""
    slots: int | Literal["auto"] = 64
    """Candidates in flight, the batch of generation: changes speed and memory, not results. auto:
    as many as fit, found by trying."""
    cuda_graphs: bool = False
    """Hold the tick of generation, and a micro-batch of align's training, in CUDA graphs; on a GPU
    only. The same result."""
    implementation: Implementation = "auto"
    """Of the fused step: "auto" or a name of ``mitune_kernels.implementations``."""

    @property
    def count(self) -> int:
        """``slots`` as a number, once it is one."""
        if self.slots == AUTO:
            raise ValueError('got slots "auto"; expected a number (mitune.engine.slot_count)')
        return self.slots

    def __post_init__(self) -> None:
        check_types(self)
        if self.slots != AUTO:
            check_positive(slots=self.slots)
        if self.precision is not None:
            check_choice("precision", self.precision, Precision)
