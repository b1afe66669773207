"""A Stable Diffusion UNet made ready for many calls of one shape.

Adapters are merged, the keys and values of a prompt's cross-attention are computed once per prompt,
and a backend, by name, says what runs the result. Its weights are a copy with fixed addresses:
another adapter or round is copied into it, and nothing is compiled again.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mitune.denoiser import Conditioning
from mitune.families.backends import run_by, set_attention
from mitune.families.stable_diffusion import StableDiffusion
from mitune.families.tensorrt_engine import TensorRT
from mitune.tuning import adapter
from mitune.tuning.merge import merged_weights


class Prepared:
    """The denoiser that generation calls.

    Attributes:
        model: what it was made from.
        backend: a name of ``mitune.families.backends.BACKENDS``.
        attention: of its ATTENTIONS.

    Raises:
        UserError: an unknown name, or one that is not available here.
    """

    def __init__(
        self, model: StableDiffusion, backend: str = "eager", attention: str = "auto"
    ) -> None:
        self.model = model
        self.backend = backend
        self.attention = attention
        unet = copy.deepcopy(model.unet).requires_grad_(False)
        adapter.detach(unet)
        if backend == "inductor":  # slower operation by operation on a CPU, faster compiled
            unet.to(memory_format=torch.channels_last)
        self._weights: dict[str, Tensor] = dict(unet.state_dict())
        self._projections = share_projections(unet)
        set_attention(unet, attention, backend)
        self._run = run_by(backend, unet)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's weights as they are now, its adapter merged."""
        given = merged_weights(self.model.unet)
        for name, tensor in self._weights.items():
            tensor.copy_(given[name])
        if isinstance(self._run, TensorRT):  # its engines have weights of their own
            self._run.refit()

    def __call__(self, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """See :class:`mitune.denoiser.Denoiser`; ``cond`` is of this object's own encoding."""
        return self._run(z.to(self.model.dtype), t, cond["encoder_hidden_states"])

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """``{"encoder_hidden_states": [N, L, sum of widths]}``: the keys and values of every
        cross-attention, side by side, in place of the text embeddings."""
        hidden = self.model.encode_prompts(prompts)["encoder_hidden_states"]
        projected = [projection(hidden) for projection in self._projections]
        return {"encoder_hidden_states": torch.cat(projected, dim=-1) if projected else hidden}

    def encode_null(self) -> dict[str, Tensor]:
        """The empty prompt's, one row."""
        return self.encode_prompts([""])


def prepare(model: StableDiffusion, backend: str, attention: str) -> Prepared:
    """The model prepared so, with its weights as they are now; made once, so that what was compiled
    serves every later call."""
    made: Prepared | None = model.prepared.get((backend, attention))
    if made is None:
        made = model.prepared[backend, attention] = Prepared(model, backend, attention)
    else:
        made.refresh()
    return made


class _Columns(nn.Module):
    """Stands where a projection stood, and takes its part out of what was projected before."""

    def __init__(self, first: int, end: int) -> None:
        super().__init__()
        self.first = first
        self.end = end

    def forward(self, projected: Tensor) -> Tensor:
        return projected[..., self.first : self.end]


def share_projections(unet: Any) -> list[nn.Module]:
    """Take the key and value projections of every cross-attention out of the UNet, in place.

    Whatever attention processor is set goes on working: it still asks ``to_k`` and ``to_v``.

    Returns:
        The projections, in the order in which the UNet now expects their results side by side;
        none where the text is normalised before it is projected, which depends on the layer.
    """
    attentions = [m for m in unet.modules() if getattr(m, "is_cross_attention", False)]
    if any(attention.norm_cross is not None for attention in attentions):
        return []
    projections: list[nn.Module] = []
    width = 0
    for attention in attentions:
        for name in ("to_k", "to_v"):
            projection = getattr(attention, name)
            setattr(attention, name, _Columns(width, width + projection.out_features))
            width += projection.out_features
            projections.append(projection)
    return projections
