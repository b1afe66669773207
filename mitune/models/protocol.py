"""What the engine, the estimators, the trainer and the runtime know of a model."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from mitune.diffusion.process import Process

if TYPE_CHECKING:  # a preset holds numbers, none of which this module uses
    from mitune.config.preset import Preset

Conditioning = Mapping[str, Tensor]
"""A flat record of per-row tensors; the first dimension of each is the row. A family names its own:
text embeddings, pooled embeddings, time ids, masks."""


class Denoiser(Protocol):
    """Any callable that predicts noise, v or velocity for latents at timesteps under
    conditioning."""

    def __call__(self, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """The raw prediction.

        Args:
            z: ``[B, ...]`` latents in the process's scale, float32 or the model's dtype.
            t: ``[B]`` timesteps, one for each row.
            cond: records of B rows.

        Returns:
            ``[B, ...]`` like ``z``: what the model predicts, in its own dtype.
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


@dataclass(frozen=True, kw_only=True)
class RuntimePasses:
    """How a copy of a denoiser may be rewritten for speed without a change in what it predicts
    (``mitune.runtime``). The default rewrites nothing, which is right for every network.

    Attributes:
        shared_prefix: no conditioning reaches the network before its first cross-attention, so both
            rows of a pair are computed once until there.
        projected: name of the conditioning tensor whose projections to keys and values, by every
            cross-attention, are computed once for each prompt; None: none is.
        folded_upsampling: diffusers' ``Upsample2D`` doubles the maps.
        half_attention: queries, keys and values of diffusers' ``Attention`` may be in half
            precision in bf16-mixed until it is done.
        float32: beginnings of the names of layers that stay in float32 in bf16-mixed.
        exact_block: beginning of the names of the layers that most of bf16-mixed's error in the
            difference of a pair comes from; "" names none.
    """

    shared_prefix: bool = False
    projected: str | None = None
    folded_upsampling: bool = False
    half_attention: bool = False
    float32: tuple[str, ...] = ()
    exact_block: str = ""


class LatentModel(Denoiser, Protocol):
    """A text-to-image model: named networks, a process and a record of conditioning tensors.

    Attributes:
        name: what it was loaded from, for people: no decision may rest on it.
        world: the embedded world that it draws, whose oracle judges its pictures; None: none.
        pipeline: the diffusers pipeline that it was made of.
        scheduler: the pipeline's, of which ``mitune.Schedule`` makes solvers.
        process: what noise does to its latents, and what it predicts.
        networks: by the names that they have in the pipeline; ``denoiser`` names the one that
            predicts. Those of ``text_targets`` can be trained too.
        text_targets: of text encoders that can be trained, the ends of the names of the layers that
            an adapter is put on.
        passes: what the runtime may do with a copy of the denoiser.
        export_prefixes: of each network, what ComfyUI and kohya put before the names of its layers;
            empty where there is no such form.
        shard_blocks: classes of the denoiser's blocks, which full fine-tuning in several processes
            puts together one at a time.
        device: where the networks run.
        precision, dtype: of the denoiser, a name of ``mitune.models.precision.PRECISIONS`` and its
            dtype; latents and scores are float32 all the same.
        latent_shape: of one latent, without the row.
        picture_size: (height, width) in pixels of what it decodes.
        prompt_limit: how many tokens of a prompt it sees.
        preset: the numbers it is used with unless told otherwise.
        fingerprint: SHA-256 over the weights of denoiser and text encoders as loaded, without any
            adapter: what an adapter belongs to.
        parts: everything else that changes a number, by part (``mitune.core.identity``).
        prepared: what ``mitune.runtime.prepared.prepare`` made of it.
    """

    name: str
    world: str | None
    pipeline: Any
    scheduler: Any
    process: Process
    networks: dict[str, Any]
    denoiser: str
    text_targets: Mapping[str, tuple[str, ...]]
    export_prefixes: Mapping[str, str]
    shard_blocks: tuple[type[nn.Module], ...]
    device: torch.device
    precision: str
    dtype: torch.dtype
    latent_shape: tuple[int, ...]
    preset: "Preset"
    fingerprint: str
    parts: Mapping[str, Any]
    prepared: dict[Any, Any]

    @property
    def passes(self) -> RuntimePasses: ...

    @property
    def picture_size(self) -> tuple[int, int]: ...

    @property
    def prompt_limit(self) -> int: ...

    def pipeline_with(self, networks: Mapping[str, Any], /) -> Any:
        """A diffusers pipeline like the model's own, with these networks in the place of its
        own."""
        ...

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """The family's call of ``network``: its denoiser, or a copy, a compiled or an adapted one.
        With twice the rows of conditioning, where ``passes.shared_prefix`` lets a copy take
        that."""
        ...

    def encode_prompts(self, prompts: Sequence[str], /) -> dict[str, Tensor]:
        """One row of conditioning for each prompt; longer ones are cut as diffusers does."""
        ...

    def encode_null(self) -> dict[str, Tensor]:
        """The row that stands for no prompt, as this family has it."""
        ...

    def tokenize(self, prompts: Sequence[str], /) -> dict[str, Tensor]:
        """Of each prompt the row of what ``embed`` takes."""
        ...

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """As ``encode_prompts``, of what ``tokenize`` made; gradients reach the text encoders."""
        ...

    def too_long(self, prompts: Sequence[str], /) -> list[str]:
        """The prompts of which the model would see only the beginning."""
        ...

    def decode(self, latents: Tensor, /) -> Tensor:
        """Pictures ``[N, 3, h, w]`` float32 in [0, 1] on the CPU, of latents in the sampler's
        scale."""
        ...

    def encode_images(self, images: Tensor, /) -> Tensor:
        """The reverse: float32 latents, the mode of the encoder."""
        ...


_Model = TypeVar("_Model", bound=LatentModel)


def denoiser_of(model: LatentModel) -> Any:
    """The network that predicts, whatever adapter is on it."""
    return model.networks[model.denoiser]


def text_encoders(model: LatentModel) -> dict[str, Any]:
    """The text encoders that can be trained, by name."""
    return {name: model.networks[name] for name in model.text_targets if name in model.networks}


def with_networks(model: _Model, networks: Mapping[str, Any]) -> _Model:
    """The model with other networks in the place of its own, and nothing prepared; the rest is
    shared."""
    other = copy.copy(model)
    other.networks, other.prepared = {**model.networks, **networks}, {}
    return other


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
