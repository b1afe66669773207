"""A denoiser prepared for many calls of one shape.

Adapters are merged, the rewrites that the model allows (``RuntimePasses``) are made, and a named
backend runs the result, in a precision that may differ from the model's. Its weights are a copy
with fixed addresses: another adapter or round is copied into it, and nothing is compiled again.
"""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mitune.adapters import network
from mitune.adapters.merge import merged_weights
from mitune.config.runtime import Runtime
from mitune.models.precision import PRECISIONS, check_precision
from mitune.models.protocol import (
    Conditioning,
    LatentModel,
    RuntimePasses,
    count_rows,
    denoiser_of,
    take,
)
from mitune.runtime.attention import set_attention
from mitune.runtime.backends import PerCore, need_fixed_shapes, run_by
from mitune.runtime.cfg_batch import share_prefix
from mitune.runtime.compile.tensorrt import TensorRT
from mitune.runtime.convolutions import tried_convolutions
from mitune.runtime.mixed_precision import (
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
        backend: a name in ``mitune.runtime.backends.BACKENDS``.
        attention: a name in ``mitune.runtime.attention.ATTENTIONS``.
        precision: a name in ``mitune.models.precision.PRECISIONS``; by default the model's own.
        network: the copy of the denoiser that runs.
        dtype: of the latents that it is called with.
        fixed_shapes: whether every other number of rows is compiled or built for.
        own_cores: whether a worker thread for each core runs it
            (``mitune.runtime.cpu_workers.undisturbed``).

    Raises:
        UserError: an unknown name, or one that is not available here.
    """

    def __init__(
        self,
        model: LatentModel,
        backend: str = "eager",
        attention: str = "auto",
        precision: str | None = None,
    ) -> None:
        self.model = model
        self.backend = backend
        self.attention = attention
        self.precision = precision or model.precision
        check_precision(self.precision)
        need_fixed_shapes(model, backend, cuda_graphs=False)
        tell_if_slow(self.precision, model.device)
        own = PRECISIONS[self.precision]
        # The engine's latents are float32; the kernels support nothing wider.
        self.dtype = torch.float32 if own == torch.float64 else own
        self._own, passes = own, model.passes
        denoiser = copy.deepcopy(denoiser_of(model)).requires_grad_(False)
        network.remove_adapter(denoiser)
        if denoiser.dtype != own:  # some diffusers networks warn about every conversion
            denoiser.to(own)
        fold = passes.folded_upsampling and backend == "inductor"
        fold = fold and model.device.type == "cpu"  # it was measured only there
        self._folded = fold_upsampling(denoiser) if fold else set()
        # Only a network that doubles its rows itself gets the latents of a pair once.
        self._pairing = share_prefix(denoiser) if passes.shared_prefix else None
        if self.precision == "bf16-mixed":
            mix_precision(denoiser, torch.bfloat16, passes, self._pairing)
        if backend == "inductor":  # slower in eager mode on a CPU, faster compiled
            denoiser.to(memory_format=torch.channels_last)
        self._weights: dict[str, Tensor] = dict(denoiser.state_dict())
        self._projections = share_projections(denoiser) if passes.projected else []
        set_attention(denoiser, attention, backend)
        self._on_gpu = model.device.type == "cuda"
        self.network, self._run = denoiser, run_by(backend, denoiser, self._call)
        self.fixed_shapes = backend != "eager"
        self.own_cores = isinstance(self._run, PerCore)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's current weights, with its adapter merged."""
        given = merged_weights(denoiser_of(self.model))
        given |= {name: transposed(given[name]) for name in self._folded}
        engines = isinstance(self._run, TensorRT)  # engines have their own copy of the weights
        changed = False
        for name, tensor in self._weights.items():
            changed = changed or (engines and not torch.equal(tensor, given[name].to(tensor)))
            tensor.copy_(given[name])
        if isinstance(self._run, TensorRT) and changed:
            self._run.refit()

    def __call__(self, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """As :class:`mitune.models.protocol.Denoiser`; ``cond`` is encoded by this object."""
        with tried_convolutions() if self._on_gpu else nullcontext():
            return self._run(z.to(self._own), t, cond).to(self.dtype)

    def _call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        if self._pairing is not None:
            self._pairing.tell(len(z), count_rows(cond))
        return self.model.call(network, z, t, cond)

    def pairs(self, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """As :class:`mitune.models.protocol.PairDenoiser`. With a shared prefix it is cheaper than
        two calls, and in bf16-mixed the difference of the two predictions is much closer to
        float32's (``mitune.runtime.cfg_batch``)."""
        if self._pairing is None:
            z, t = torch.cat([z, z]), torch.cat([t, t])
        return self(z, t, cond)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """The model's conditioning, one row for each prompt. If the projections of cross-attention
        are shared, ``[N, L, sum of widths]``, all keys and values side by side, replaces the tensor
        that is projected."""
        return self._projected(self.model.encode_prompts(prompts))

    def encode_rows(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The conditioning of each text, a row each, of which each distinct one is encoded
        once."""
        distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        rows = torch.tensor([distinct[text] for text in texts])
        return take(self.encode_prompts(list(distinct)), rows)

    @torch.no_grad()
    def encode_null(self) -> dict[str, Tensor]:
        """The model's row that stands for no prompt, encoded as in ``encode_prompts``."""
        return self._projected(self.model.encode_null())

    def _projected(self, cond: Conditioning) -> dict[str, Tensor]:
        own = {n: x.to(self._own) if x.is_floating_point() else x for n, x in cond.items()}
        if self._projections:
            name = self.model.passes.projected
            assert name is not None
            projected = [projection(own[name]) for projection in self._projections]
            own[name] = torch.cat(projected, dim=-1)
        return own


def prepare(model: LatentModel, runtime: Runtime) -> Prepared:
    """The model prepared for ``runtime``, with its current weights. It is made once for each
    setting, so that what was compiled serves every later call."""
    key = runtime.backend, runtime.attention, runtime.precision or model.precision
    made: Prepared | None = model.prepared.get(key)
    if made is None:
        made = model.prepared[key] = Prepared(model, *key)
    else:
        made.refresh()
    return made


def at_size(model: LatentModel, latent_size: tuple[int, int]) -> LatentModel:
    """The model at another size, with what is prepared of it: the copies of the denoiser and what
    was compiled serve every size."""
    other = model.at(latent_size)
    for key, made in model.prepared.items():
        other.prepared[key] = twin = copy.copy(made)
        twin.model = other
    return other


def mix_precision(
    network: Any, dtype: torch.dtype, passes: RuntimePasses, pairing: Pairing | None
) -> None:
    """Let the convolutions and linear layers of a float32 network multiply in ``dtype``, in place.

    Their outputs are float32 again, and so is everything that is added up from layer to layer,
    normalised and activated: rounding errors of the products do not accumulate in it. The rows of a
    pair have common rounding errors in all convolutions, and in the linear layers of
    ``passes.exact_block``, which causes most of the error in their difference; elsewhere, and in
    the inputs of attention, this gains little. The projections of the text stay in float32: they
    are computed once per prompt. Queries, keys and values of self-attention are in ``dtype`` until
    the attention is computed, except in that block, where this costs accuracy (docs/log.md). On a
    GPU, whose fast attention kernels do not support float32, all are.
    """
    on_gpu = next(network.parameters()).device.type != "cpu"
    exact = passes.exact_block
    for parent_name, parent in list(network.named_modules()):
        for name, layer in list(parent.named_children()):
            path = f"{parent_name}.{name}" if parent_name else name
            crossed = getattr(parent, "is_cross_attention", False)
            text = crossed and name in ("to_k", "to_v")
            if not isinstance(layer, Product) or path.startswith(passes.float32):
                continue
            attended = name in ("to_q", "to_k", "to_v")
            careful = exact != "" and path.startswith(exact)
            half = attended and passes.half_attention and (on_gpu or not (crossed or careful))
            if not text:
                paired = not isinstance(layer, nn.Linear) or (careful and not attended)
                of = pairing if paired else None
                setattr(parent, name, HalfProducts(layer, dtype, of, half_output=half))
            elif half:
                layer.register_forward_hook(lambda layer, given, made: made.to(dtype))


class _Columns(nn.Module):
    """Replaces a projection: returns its columns of what was projected before."""

    def __init__(self, first: int, end: int) -> None:
        super().__init__()
        self.first = first
        self.end = end

    def forward(self, projected: Tensor) -> Tensor:
        return projected[..., self.first : self.end]


def share_projections(unet: Any) -> list[nn.Module]:
    """Take the key and value projections of every cross-attention out of a denoiser, in place.

    Any attention processor still works, as it still calls ``to_k`` and ``to_v``.

    Returns:
        The projections, in the order in which the denoiser now expects their results side by side;
        empty if the text is normalised before it is projected, which depends on the layer.
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
