"""How networks are run, which changes speed, memory and rounding and nothing else."""

from dataclasses import dataclass

from mitune.config.choices import Attention, Backend, Implementation, Precision, check_choice
from mitune.config.options import check_positive, check_types


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
    slots: int = 64
    """Candidates in flight, the batch of generation: changes speed and memory, not results."""
    cuda_graphs: bool = False
    """Hold the tick of generation, and a micro-batch of align's training, in CUDA graphs; on a GPU
    only. The same result."""
    implementation: Implementation = "auto"
    """Of the fused step: "auto" or a name of ``mitune_kernels.implementations``."""

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(slots=self.slots)
        if self.precision is not None:
            check_choice("precision", self.precision, Precision)
