"""How a network is run, which changes speed and rounding and nothing else."""

from dataclasses import dataclass

from mitune.config.choices import Attention, Backend


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What runs the UNet.

    Attributes:
        backend: a name of ``mitune.runtime.backends.BACKENDS``.
        attention: of ``mitune.runtime.attention.ATTENTIONS``.
    """

    backend: Backend = "eager"
    attention: Attention = "auto"
