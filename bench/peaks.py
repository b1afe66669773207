"""Peak memory of building and tuning at the published sizes, from the tensors alone.

    python bench/peaks.py sdxl-random sd35-medium-random

The networks are made without weights (torch's fake tensors), mitune's own code runs over them, and
every result of every operation is counted from its creation to its release. Not counted: the work
space of a GPU's kernels, what its allocator cannot reuse, and the CUDA context (about 1 GB in all).
One picture, or one sample, at the model's own size; a denoiser in bfloat16; DoRA of rank 32.
"""

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPTokenizer

from mitune.adapters import adapter
from mitune.bench.random_model import random_models
from mitune.config.training import TuneConfig
from mitune.models import pipeline_model
from mitune.models.family import assemble
from mitune.models.sd3 import random_weights
from mitune.training.batches import MicroBatch
from mitune.training.gradient import gradient_of
from mitune.training.recomputed import recomputed
from mitune.worlds.networks import scheduler
from mitune.worlds.shapes_v1.model import FOLDER
from mitune.worlds.shapes_v1.networks import vae

FAKE = FakeTensorMode(allow_non_fake_inputs=True)
WAYS = {"merged": (False, True), "peft": (False, True)}
"""Each gradient, without and with gradient_checkpointing."""


class Peak(TorchDispatchMode):
    """The largest number of bytes that tensors had at once while this mode was active: those of
    ``module`` and all that operations made."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.bytes = self._now = 0
        self._held: dict[int, int] = {}
        for tensor in module.state_dict(keep_vars=True).values():
            self._take(tensor)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._take(tensor)
        return made

    def _take(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._held:
            self._held[key] = storage.nbytes()
            self._now += storage.nbytes()
            self.bytes = max(self.bytes, self._now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self._now -= self._held.pop(key)


def model_of(name: str) -> Any:
    """The random model of that name, whose weights have no memory."""
    tokenizer: Any = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer", model_max_length=77)
    parts = {"scheduler": scheduler(), "vae": vae()}
    torch.set_default_dtype(torch.bfloat16)
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)  # its times have to be numbers
    with FAKE, patch.object(random_weights, "FlowMatchEulerDiscreteScheduler", lambda **_: flow):
        parts |= random_models()[name](tokenizer)
    torch.set_default_dtype(torch.float32)
    # Weights that have no numbers cannot be checked or identified.
    pipeline_model.check_weights = lambda *_: None
    pipeline_model.parts_of = lambda *_: {}
    family, pipeline = assemble(parts)
    model = family.model(
        pipeline,
        name,
        device=torch.device("cpu"),
        precision="bfloat16",
        fingerprint=name,
        as_it_is=True,
    )
    for network in model.networks.values():
        network.requires_grad_(False)
    return model


def conditioning(model: Any) -> dict[str, Tensor]:
    """One row, of the shapes of the real text encoders."""
    if model.denoiser == "unet":
        shapes = {"encoder_hidden_states": (77, 2048), "text_embeds": (1280,), "time_ids": (6,)}
    else:
        shapes = {"encoder_hidden_states": (77 + 256, 4096), "pooled_projections": (2048,)}
    return {name: torch.empty(1, *shape, dtype=model.dtype) for name, shape in shapes.items()}


@contextmanager
def in_place() -> Iterator[None]:
    """Networks stay in their dtype and layout: torch cannot exchange fake weights."""
    own, nn.Module.to = nn.Module.to, lambda self, *_, **__: self
    try:
        yield
    finally:
        nn.Module.to = own


def tick(model: Any, slots: int) -> int:
    """Of a call of the denoiser for so many candidates."""
    with FAKE, torch.no_grad():
        cond = {n: x.repeat_interleave(2 * slots, 0) for n, x in conditioning(model).items()}
        z, t = torch.empty(2 * slots, *model.latent_shape), torch.full((2 * slots,), 500.0)
        with Peak(model.networks[model.denoiser]) as peak:
            model(z, t, cond)
    return peak.bytes


def picture(model: Any) -> int:
    """Of decoding one picture in float32 with a VAE of the published sizes."""
    with FAKE, torch.no_grad():
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=model.latent_shape[0],
        )
        with Peak(vae) as peak:
            vae.decode(torch.empty(1, *model.latent_shape))
    return peak.bytes


def step(model: Any, gradient: str, again: bool) -> int:
    """Of an optimizer step with one sample."""
    config = TuneConfig(
        rank=32, batch=1, micro_batch=1, gradient=gradient, gradient_checkpointing=again
    )
    adapter.attach(model, config)
    optimizer = torch.optim.AdamW(adapter.groups(model, config), **config.adamw)
    t = torch.tensor([500.0] if model.process.prediction == "velocity" else [500])
    with FAKE, in_place(), recomputed(model, again):
        z = torch.empty(1, *model.latent_shape)
        samples = MicroBatch(latents=z, noise=z, t=t, cond=conditioning(model))
        with Peak(model.networks[model.denoiser]) as peak:
            found = gradient_of(model, config)
            for _ in range(2):  # the second one has the optimizer's moments
                found.begin()
                found.add(samples)
                found.finish()
                optimizer.step()
    adapter.detach(model)
    return peak.bytes


def lines(name: str) -> Iterator[str]:
    model = model_of(name)
    one, two = tick(model, 1), tick(model, 2)
    slot = two - one
    yield f"{name}: denoiser {(one - slot) / 1e9:.2f} GB, a slot {slot / 1e9:.3f} GB"
    yield f"{name}: the VAE and a picture {picture(model) / 1e9:.2f} GB"
    for gradient, again in ((g, a) for g, ways in WAYS.items() for a in ways):
        how = f"gradient {gradient}{', gradient_checkpointing' if again else ''}"
        yield f"{name}: tuning, {how}: {step(model, gradient, again) / 1e9:.2f} GB"


if __name__ == "__main__":
    for asked in sys.argv[1:]:
        for line in lines(asked):
            print(line, flush=True)
