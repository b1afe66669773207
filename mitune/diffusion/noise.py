"""Noise that belongs to a candidate: the same in any batch, shard or machine."""

import hashlib
from collections.abc import Sequence

import torch
from mitune_kernels import normal
from torch import Tensor

from mitune.core.errors import UserError

__all__ = ["candidate_key", "candidate_keys", "normal", "prompt_id"]


def prompt_id(prompt: str) -> int:
    """The prompt's number in the noise key: the first 32 bits of the SHA-256 of its UTF-8 text."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big")


def candidate_key(seed: int, prompt: str, candidate: int) -> tuple[int, int, int, int]:
    """The noise key of one candidate.

    Args:
        seed: of the run, 0 to 2^64 - 1.
        prompt: the candidate's prompt.
        candidate: its index among the prompt's candidates, 0 to 2^32 - 1.

    Returns:
        seed_lo, seed_hi, candidate, prompt id; each a uint32.

    Raises:
        UserError: a seed or an index outside its range.
    """
    if not 0 <= seed < 1 << 64:
        raise UserError(f"seed: got {seed}, expected 0 to 2^64 - 1; choose another seed")
    if not 0 <= candidate < 1 << 32:
        raise UserError(
            f"candidate: got {candidate}, expected 0 to 2^32 - 1; ask for fewer candidates"
        )
    return seed & 0xFFFFFFFF, seed >> 32, candidate, prompt_id(prompt)


def candidate_keys(candidates: Sequence[tuple[int, str, int]]) -> Tensor:
    """The noise keys of (seed, prompt, candidate) triples: ``[B, 4]`` int64 on the CPU, for
    ``mitune_kernels.step``.

    Raises:
        UserError: as :func:`candidate_key`.
    """
    keys = [candidate_key(seed, prompt, candidate) for seed, prompt, candidate in candidates]
    return torch.tensor(keys, dtype=torch.int64).reshape(len(keys), 4)
