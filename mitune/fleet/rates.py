"""How fast boards run denoisers: what was measured, and what is assumed where nothing was."""

from dataclasses import dataclass

from mitune.core.errors import UserError

MFU = 0.459
"""Of peak bfloat16, generation in a CUDA graph on an H200 (docs/log.md, 2026-11-27), the one GPU
measured so far; assumed of every other board."""
TRAINING_MFU = 0.33
"""Assumed of training: that of MLPerf Training 4.1's text-to-image model on an H100. No training of
ours was measured on a GPU."""
JOULES = 1.53e-12
"""Board energy of a floating-point operation on that H200: 49.1 J a candidate of 20 steps."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """One GPU, from its maker's data sheet: peak of dense bfloat16 in FLOP/s, and watts."""

    name: str
    peak: float
    watts: float
    measured: bool = False
    """Whether MFU was measured on it."""


BOARDS = {
    board.name: board
    for board in (
        Board(name="A100", peak=312e12, watts=400),
        Board(name="L40S", peak=362e12, watts=350),
        Board(name="H100", peak=989e12, watts=700),
        Board(name="H200", peak=989e12, watts=700, measured=True),
        Board(name="B200", peak=2250e12, watts=1000),
    )
}


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """What a denoiser's pass of one row costs.

    Attributes:
        name: for people.
        products: floating-point operations of matrix products, attention included; a multiply-add
            counts as two.
        convolutions: those of convolutions.
        latent: numbers in a latent.
    """

    name: str
    products: float
    convolutions: float
    latent: int

    @property
    def flops(self) -> float:
        """All of them."""
        return self.products + self.convolutions


PAPER_MODEL = Denoiser(
    name="the paper's model, 512 x 512",
    products=385.897e9,
    convolutions=418.361e9,
    latent=4 * 64 * 64,
)
"""Counted by torch's FlopCounterMode on diffusers' UNet with the configuration of version 2.1,
base."""

_FLOAT32, _TF32, _TF32_USE = 19.5e12, 156e12, 0.6


def paper_seconds(denoiser: Denoiser, passes: float, convolution_passes: float) -> float:
    """Seconds of the authors' code on an A100, from what it runs: matrix products in float32
    without tensor cores, at their peak, and convolutions, as cuDNN does by default, in TF32 at an
    assumed 60 % of its peak."""
    products = passes * denoiser.products / _FLOAT32
    return products + convolution_passes * denoiser.convolutions / (_TF32 * _TF32_USE)


def find_board(name: str) -> Board:
    """The board of this name.

    Raises:
        UserError: it is in no table here.
    """
    found = BOARDS.get(name.upper())
    if found is None:
        raise UserError(
            f"device kind {name} is not known: expected one of {', '.join(BOARDS)}, or --rate with "
            "candidates a second of one of yours, or --measure on this machine"
        )
    return found
