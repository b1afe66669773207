"""How networks are run, which changes speed, memory and rounding and nothing else."""

from dataclasses import dataclass

from mitune.config.choices import Attention, Backend, Implementation, Precision, check_choice
from mitune.config.options import check_positive, check_types


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What runs the denoiser."""

    backend: Backend = "eager"
    """A name of ``mitune.runtime.backends.BACKENDS``."""
    attention: Attention = "auto"
    """Of ``mitune.runtime.attention.ATTENTIONS``."""
    precision: Precision | None = None
    """Of ``mitune.models.precision.PRECISIONS``; None is the model's own."""
    slots: int = 64
    """Candidates in flight, the fixed batch of generation: changes speed and memory, not
    results."""
    cuda_graphs: bool = False
    """Hold the tick of generation in a CUDA graph; on a GPU only."""
    implementation: Implementation = "auto"
    """Of the fused step: "auto" or a name of ``mitune_kernels.implementations``."""

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(slots=self.slots)
        if self.precision is not None:
            check_choice("precision", self.precision, Precision)
