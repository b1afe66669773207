"""A candidate: one generated latent, its score and where both came from."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.diffusion import noise


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """One candidate of a prompt's pool, as generation yields it and as a set stores it.

    Attributes:
        prompt: the text it was generated from.
        prompt_index: position of the prompt in the run's list, >= 0.
        index: position in the prompt's pool of candidates, >= 0.
        seed: the run's seed, 0 <= seed < 2**63 (stored as int64).
        score: estimated point-wise mutual information in nats; may be non-finite, and then loses
            selection.
        terms: float32 [N, 2] on the CPU, per step ``(||delta||^2, <uncond, delta>)``, unweighted.
        latent: float32 on the CPU, [C, H, W] for images; any rank is accepted. If the candidate did
            not take every step, the state in which it stopped.
        steps: how many steps it took; None means all N. The terms of later steps are NaN.
        pruned: whether it stopped before the last step that counts for the score, so that its score
            is partial.

    Raises:
        ValueError: a tensor has another shape, dtype or device, or an integer is out of range.
    """

    prompt: str
    prompt_index: int
    index: int
    seed: int
    score: float
    terms: Tensor
    latent: Tensor
    steps: int | None = None
    pruned: bool = False

    def __post_init__(self) -> None:
        if self.prompt_index < 0 or self.index < 0:
            raise ValueError(
                f"got prompt_index {self.prompt_index}, index {self.index}; expected >= 0"
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"got seed {self.seed}; expected 0 <= seed < 2**63")
        if self.terms.ndim != 2 or self.terms.shape[1] != 2:
            raise ValueError(f"got terms of shape {list(self.terms.shape)}; expected [N, 2]")
        if self.steps is not None and not 0 <= self.steps <= len(self.terms):
            raise ValueError(f"got steps {self.steps}; expected 0 to {len(self.terms)}")
        for name, tensor in (("terms", self.terms), ("latent", self.latent)):
            if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
                raise ValueError(
                    f"got {name} {tensor.dtype} on {tensor.device}; expected torch.float32 on cpu"
                )

    @property
    def prompt_id(self) -> int:
        """First 32 bits (big-endian) of the SHA-256 of the prompt in UTF-8: the word that keys
        its noise.
        """
        return noise.prompt_id(self.prompt)

    @property
    def finished(self) -> bool:
        """Whether it took every step, so that its latent is a finished picture."""
        return self.steps is None or self.steps == len(self.terms)

    @property
    def finite(self) -> bool:
        """Whether score and latent are both finite; the unused terms do not count."""
        return math.isfinite(self.score) and bool(torch.isfinite(self.latent).all())
