"""The interface through which the engine, the estimators, the trainer and the runtime use a
model."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from mitune.diffusion.process import Process
from mitune.diffusion.schedule import Schedule

if TYPE_CHECKING:
    from mitune.config.preset import Preset
    from mitune.config.sampling import SamplerConfig

Conditioning = Mapping[str, Tensor]
"""A flat mapping of per-row tensors; the first dimension of each is the row. A family chooses the
names: text embeddings, pooled embeddings, time ids, masks."""


class Denoiser(Protocol):
    """Any callable that predicts noise, v or velocity for latents at timesteps under
    conditioning."""

    def __call__(self, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """Return the raw prediction.

        Args:
            z: ``[B, ...]`` latents in the process's scale, float32 or the model's dtype.
            t: ``[B]`` timesteps, one for each row.
            cond: conditioning of B rows.

        Returns:
            ``[B, ...]`` like ``z``: what the model predicts, in the model's dtype.
        """
        ...


@runtime_checkable
class PairDenoiser(Denoiser, Protocol):
    """A denoiser that predicts the same latents under two conditionings at less than the cost of
    two calls."""

    def pairs(self, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """Return the raw predictions under both conditionings.

        Args:
            z: ``[S, ...]`` latents.
            t: ``[S]`` timesteps.
            cond: conditioning of 2 S rows; rows i and S + i belong to latent i.

        Returns:
            ``[2 S, ...]``, in the order of the rows of ``cond``.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class RuntimePasses:
    """How a copy of a denoiser may be rewritten for speed without changing what it predicts
    (``mitune.runtime``). The default rewrites nothing, which is right for every network.

    Attributes:
        shared_prefix: no conditioning reaches the network before its first cross-attention, so what
            comes before is computed once for both rows of a pair.
        projected: name of the conditioning tensor whose key and value projections, in every
            cross-attention, are computed once for each prompt; None: there is no such tensor.
        folded_upsampling: diffusers' ``Upsample2D`` doubles the feature maps, so it can be folded
            into its convolution.
        half_attention: in bf16-mixed, queries, keys and values of diffusers' ``Attention`` may be
            in half precision until the attention is computed.
        float32: prefixes of the names of layers that stay in float32 in bf16-mixed.
        exact_block: prefix of the names of the layers that cause most of bf16-mixed's error in the
            difference of a pair; "" names none.
        fixed_shapes: calls of equal shapes do the same operations, so that one can be compiled or
            recorded for all.
        recomputes: with gradient checkpointing, diffusers' class predicts the same.
    """

    shared_prefix: bool = False
    projected: str | None = None
    folded_upsampling: bool = False
    half_attention: bool = False
    float32: tuple[str, ...] = ()
    exact_block: str = ""
    fixed_shapes: bool = True
    recomputes: bool = True


class LatentModel(Denoiser, Protocol):
    """A text-to-image model: named networks, a process and a record of conditioning tensors.

    Attributes:
        name: what it was loaded from, shown to people: no decision may depend on it.
        world: the embedded world that it draws, whose oracle judges its pictures; None for other
            models.
        pipeline: the diffusers pipeline that it was made from.
        scheduler: of the pipeline; ``mitune.Schedule`` makes solvers from it.
        process: the noising process of its latents, and what the denoiser predicts in it.
        networks: by their names in the pipeline; ``denoiser`` names the one that predicts. Those of
            ``text_targets`` can be trained too.
        text_targets: for each text encoder that can be trained, the ends of the names of the layers
            that get an adapter.
        passes: how the runtime may rewrite a copy of the denoiser.
        export_prefixes: for each other program's format ("comfyui", "kohya") that the family has,
            and each network, what that program puts before the names of its layers.
        shard_blocks: classes of the denoiser's blocks; full fine-tuning in several processes
            gathers the weights of one such block at a time.
        device: where the networks run.
        offload: the text encoders' weights are in the CPU's memory; so is conditioning that waits.
        precision, dtype: of the denoiser, a name in ``mitune.models.precision.PRECISIONS`` and its
            dtype; latents and scores are float32 in every precision.
        latent_shape: of one latent, without the batch dimension.
        picture_size: (height, width) in pixels of a decoded picture.
        prompt_limit: how many tokens of a prompt it sees.
        preset: the settings that it uses unless others are given.
        fingerprint: SHA-256 over the weights of denoiser and text encoders as loaded, without any
            adapter. An adapter belongs to a fingerprint.
        parts: everything else that changes a number, by part (``mitune.core.identity``).
        prepared: what ``mitune.runtime.prepared.prepare`` has made from it.
    """

    name: str
    world: str | None
    pipeline: Any
    scheduler: Any
    process: Process
    networks: dict[str, Any]
    denoiser: str
    text_targets: Mapping[str, tuple[str, ...]]
    export_prefixes: Mapping[str, Mapping[str, str]]
    shard_blocks: tuple[type[nn.Module], ...]
    device: torch.device
    offload: bool
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
    def renormalise(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """What the family's pipeline makes of a guided prediction before its step, from the guided
        and the conditional one, both ``[B, C, H, W]``; None: nothing. The score does not see
        it."""
        ...

    @property
    def picture_size(self) -> tuple[int, int]: ...

    @property
    def prompt_limit(self) -> int: ...

    @property
    def largest_side(self) -> int | None:
        """Of a picture, in pixels; None: there is none."""
        ...

    @property
    def latent_step(self) -> int:
        """Latents of which a picture's sides are multiples."""
        ...

    def at(self, latent_size: tuple[int, int], /) -> Self:
        """The same model at pictures whose latents are so high and wide; it shares all networks,
        and ``call`` already takes latents of any size."""
        ...

    def schedule(self, sampler: "SamplerConfig", /) -> Schedule:
        """The table of the sampler's steps for pictures of the model's size."""
        ...

    def pipeline_with(self, networks: Mapping[str, Any], /) -> Any:
        """A diffusers pipeline like the model's own, but with these networks."""
        ...

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """Call ``network`` with the family's signature. It is the denoiser, or a copy of it, a
        compiled or an adapted one. ``cond`` may have twice the rows of ``z`` if
        ``passes.shared_prefix`` was applied to the network."""
        ...

    def encode_prompts(self, prompts: Sequence[str], /) -> dict[str, Tensor]:
        """One row of conditioning for each prompt; prompts that are too long are cut as diffusers
        cuts them."""
        ...

    def encode_null(self) -> dict[str, Tensor]:
        """The row that stands for no prompt in this family."""
        ...

    def tokenize(self, prompts: Sequence[str], /) -> dict[str, Tensor]:
        """The inputs of ``embed``, one row for each prompt."""
        ...

    def tokenize_null(self) -> dict[str, Tensor]:
        """The row of what ``embed`` turns into the conditioning of no prompt."""
        ...

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """As ``encode_prompts``, from the result of ``tokenize``; gradients reach the text
        encoders."""
        ...

    def too_long(self, prompts: Sequence[str], /) -> list[str]:
        """The prompts of which the model would see only the beginning, as they are too long."""
        ...

    def decode(self, latents: Tensor, /) -> Tensor:
        """Decode latents in the sampler's scale to pictures ``[N, 3, h, w]`` float32 in [0, 1] on
        the CPU."""
        ...

    def encode_images(self, images: Tensor, /) -> Tensor:
        """Encode pictures to float32 latents, the mode of the encoder's distribution."""
        ...


_Model = TypeVar("_Model", bound=LatentModel)


def denoiser_of(model: LatentModel) -> Any:
    """The network that predicts, with any adapter that is on it."""
    return model.networks[model.denoiser]


def text_encoders(model: LatentModel) -> dict[str, Any]:
    """The text encoders that can be trained, by name."""
    return {name: model.networks[name] for name in model.text_targets if name in model.networks}


def with_networks(model: _Model, networks: Mapping[str, Any]) -> _Model:
    """A copy of the model with other networks and nothing prepared; it shares everything else."""
    other = copy.copy(model)
    other.networks, other.prepared = {**model.networks, **networks}, {}
    return other


def take(cond: Conditioning, rows: Tensor) -> dict[str, Tensor]:
    """The conditioning of ``rows`` ([B] int64, repeats allowed), in that order."""
    return {name: tensor[rows.to(tensor.device)] for name, tensor in cond.items()}


def concat(parts: Sequence[Conditioning]) -> dict[str, Tensor]:
    """Concatenate the rows of all ``parts``, which have the same names."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def count_rows(cond: Conditioning) -> int:
    """Number of rows of a conditioning record.

    Raises:
        ValueError: the record is empty, or its tensors disagree.
    """
    rows = {name: len(tensor) for name, tensor in cond.items()}
    if len(set(rows.values())) != 1:
        raise ValueError(f"conditioning must have one number of rows, got {rows}")
    return next(iter(rows.values()))
