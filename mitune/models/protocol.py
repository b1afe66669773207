"""What the engine, the estimators and the trainer know of a model: a callable and a record of
conditioning tensors."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

Conditioning = Mapping[str, Tensor]
"""A flat record of per-row tensors; the first dimension of each is the row. Stable Diffusion 1.x
and 2.x: ``{"encoder_hidden_states": [B, L, D]}``; other families add pooled embeddings, time ids,
masks."""


class Denoiser(Protocol):
    """Any callable that predicts noise (or v) for latents at timesteps under conditioning."""

    def __call__(self, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """The raw prediction.

        Args:
            z: ``[B, ...]`` latents in the variance-preserving scale, float32 or the model's dtype.
            t: ``[B]`` timesteps, one for each row.
            cond: records of B rows.

        Returns:
            ``[B, ...]`` like ``z``: what the model predicts (epsilon or v), in its own dtype.
        """
        ...


@runtime_checkable
class PairDenoiser(Denoiser, Protocol):
    """One that predicts the same latents under two conditionings at less than twice the cost."""

    def pairs(self, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """The raw predictions of both.

        Args:
            z: ``[S, ...]`` latents.
            t: ``[S]`` timesteps.
            cond: records of 2 S rows; row S + i belongs to latent i as row i does.

        Returns:
            ``[2 S, ...]``, rows as those of ``cond``.
        """
        ...


def take(cond: Conditioning, rows: Tensor) -> dict[str, Tensor]:
    """The conditioning of ``rows`` ([B] int64, repeats allowed), in that order."""
    return {name: tensor[rows.to(tensor.device)] for name, tensor in cond.items()}


def concat(parts: Sequence[Conditioning]) -> dict[str, Tensor]:
    """The rows of all ``parts`` one after the other; every part has the same names."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def count_rows(cond: Conditioning) -> int:
    """Number of rows of a record.

    Raises:
        ValueError: an empty record, or tensors that disagree.
    """
    rows = {name: len(tensor) for name, tensor in cond.items()}
    if len(set(rows.values())) != 1:
        raise ValueError(f"conditioning must have one number of rows, got {rows}")
    return next(iter(rows.values()))
