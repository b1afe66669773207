"""A Stable Diffusion UNet made ready for many calls of one shape.

Adapters are merged, the keys and values of a prompt's cross-attention are computed once per prompt,
and a backend, by name, says what runs the result, in a precision that may be another than the
model's. Its weights are a copy with fixed addresses:
another adapter or round is copied into it, and nothing is compiled again.
"""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mitune.adapters import network
from mitune.adapters.merge import merged_weights
from mitune.models.protocol import Conditioning
from mitune.models.stable_diffusion.model import PRECISIONS, StableDiffusion, check_precision
from mitune.runtime.attention import set_attention
from mitune.runtime.backends import PerCore, run_by
from mitune.runtime.cfg_batch import share_prefix
from mitune.runtime.compile.tensorrt import TensorRT
from mitune.runtime.convolutions import tried_convolutions
from mitune.runtime.mixed_precision import (
    FLOAT32_ENDS,
    HalfProducts,
    Pairing,
    Product,
    tell_if_slow,
)
from mitune.runtime.upsampling import fold_upsampling, transposed


class Prepared:
    """The denoiser that generation calls.

    Attributes:
        model: what it was made from.
        backend: a name of ``mitune.runtime.backends.BACKENDS``.
        attention: of ``mitune.runtime.attention.ATTENTIONS``.
        precision: of ``PRECISIONS`` beside :class:`StableDiffusion`; the model's own by default.
        dtype: of the latents that it is called with.
        fixed_shapes: every other number of rows is compiled or built for.
        own_cores: it runs on a worker for each core (``mitune.runtime.cpu_workers.undisturbed``).

    Raises:
        UserError: an unknown name, or one that is not available here.
    """

    def __init__(
        self,
        model: StableDiffusion,
        backend: str = "eager",
        attention: str = "auto",
        precision: str | None = None,
    ) -> None:
        self.model = model
        self.backend = backend
        self.attention = attention
        self.precision = precision or model.precision
        check_precision(self.precision)
        tell_if_slow(self.precision, model.device)
        own = PRECISIONS[self.precision]
        # The engine's latents are float32; the kernels know nothing wider.
        self.dtype = torch.float32 if own == torch.float64 else own
        unet = copy.deepcopy(model.unet).requires_grad_(False)
        network.strip(unet)
        unet.to(own)
        self._own = own
        fold = backend == "inductor" and unet.device.type == "cpu"  # where it was measured
        self._folded = fold_upsampling(unet) if fold else set()
        pairing = share_prefix(unet)
        if self.precision == "bf16-mixed":
            mix_precision(unet, torch.bfloat16, pairing)
        if backend == "inductor":  # slower operation by operation on a CPU, faster compiled
            unet.to(memory_format=torch.channels_last)
        self._weights: dict[str, Tensor] = dict(unet.state_dict())
        self._projections = share_projections(unet)
        set_attention(unet, attention, backend)
        self._on_gpu = unet.device.type == "cuda"
        self._run = run_by(backend, unet)
        self.fixed_shapes = backend != "eager"
        self.own_cores = isinstance(self._run, PerCore)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's weights as they are now, its adapter merged."""
        given = merged_weights(self.model.unet)
        given |= {name: transposed(given[name]) for name in self._folded}
        engines = isinstance(self._run, TensorRT)  # which have weights of their own
        changed = False
        for name, tensor in self._weights.items():
            changed = changed or (engines and not torch.equal(tensor, given[name].to(tensor)))
            tensor.copy_(given[name])
        if isinstance(self._run, TensorRT) and changed:
            self._run.refit()

    def __call__(self, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """As :class:`mitune.models.protocol.Denoiser`; ``cond`` is of this object's encoding."""
        with tried_convolutions() if self._on_gpu else nullcontext():
            return self._run(z.to(self._own), t, cond["encoder_hidden_states"]).to(self.dtype)

    def pairs(self, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """As :class:`mitune.models.protocol.PairDenoiser`. Cheaper than two calls, and in
        bf16-mixed the difference of the two predictions is much nearer to float32's
        (``mitune.runtime.cfg_batch``)."""
        return self(z, t, cond)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """``{"encoder_hidden_states": [N, L, sum of widths]}``: the keys and values of every
        cross-attention, side by side, in place of the text embeddings."""
        hidden = self.model.encode_prompts(prompts)["encoder_hidden_states"].to(self._own)
        projected = [projection(hidden) for projection in self._projections]
        return {"encoder_hidden_states": torch.cat(projected, dim=-1) if projected else hidden}

    def encode_null(self) -> dict[str, Tensor]:
        """The empty prompt's, one row."""
        return self.encode_prompts([""])


def prepare(
    model: StableDiffusion, backend: str, attention: str, precision: str | None = None
) -> Prepared:
    """The model prepared so, with its weights as they are now; made once, so that what was compiled
    serves every later call."""
    key = backend, attention, precision or model.precision
    made: Prepared | None = model.prepared.get(key)
    if made is None:
        made = model.prepared[key] = Prepared(model, *key)
    else:
        made.refresh()
    return made


def mix_precision(unet: Any, dtype: torch.dtype, pairing: Pairing) -> None:
    """Let the convolutions and linear layers of a float32 UNet multiply in ``dtype``, in place.

    What comes out of them is float32 again, and so is all that is added up from layer to layer,
    normalised and activated: roundings of the products do not pile up in it. Pairs have common
    roundings in the last block, which most of the error in their difference comes from, and in all
    convolutions; elsewhere, and in what attention is given, it gains little. The projections of the
    text stay in float32: they are computed once per prompt. Queries, keys and values of
    self-attention are in ``dtype`` until it is done, but for the last block's, where that costs
    exactness (docs/measured.md); on a GPU, whose fast kernels know no float32, all are.
    """
    on_gpu = next(unet.parameters()).device.type != "cpu"
    last = f"up_blocks.{len(unet.up_blocks) - 1}."
    for parent_name, parent in list(unet.named_modules()):
        for name, layer in list(parent.named_children()):
            path = f"{parent_name}.{name}" if parent_name else name
            crossed = getattr(parent, "is_cross_attention", False)
            text = crossed and name in ("to_k", "to_v")
            if not isinstance(layer, Product) or path.startswith(FLOAT32_ENDS):
                continue
            attended = name in ("to_q", "to_k", "to_v")
            half = attended and (on_gpu or not (crossed or path.startswith(last)))
            if not text:
                paired = not isinstance(layer, nn.Linear) or (
                    path.startswith(last) and not attended
                )
                of = pairing if paired else None
                setattr(parent, name, HalfProducts(layer, dtype, of, half_output=half))
            elif half:
                layer.register_forward_hook(lambda layer, given, made: made.to(dtype))


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
