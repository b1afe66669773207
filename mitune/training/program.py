"""The denoiser as the merged gradient runs it, kept with the model so that a later training of the
same kind, such as the next round's, compiles nothing again."""

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from mitune.config.training import TuneConfig
from mitune.models.protocol import Conditioning, LatentModel, denoiser_of
from mitune.runtime.attention import set_attention
from mitune.runtime.compile.inductor import Run, compile_run
from mitune.runtime.cpu_workers import Cores
from mitune.training.plain import plain_denoiser

_KEPT = "training"
"""The entry of ``model.prepared``."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A denoiser without its adapter, and what runs it.

    Attributes:
        plain: from :func:`mitune.training.plain.plain_denoiser`.
        trained: the layers in it whose weights have a gradient, by name.
        eager: calls ``plain``, operation by operation.
        run: ``eager``, or the same compiled.
        cores: the worker threads that share a micro-batch; None if one thread does it.
    """

    plain: Any
    trained: dict[str, Any]
    eager: Run
    run: Run
    cores: Cores | None


def program(model: LatentModel, config: TuneConfig) -> Program:
    """The program of a model that carries an adapter; the one of the last training if that was
    compiled for the same layers, and the frozen weights have not changed since.

    Args:
        model: with the adapter on it; its ``prepared`` keeps a compiled program.
        config: its backend is used.
    """
    if config.backend == "eager":
        return _made(model, config)
    key = _key(model, config)
    kept = model.prepared.get(_KEPT)
    if kept is None or kept[0] != key:
        model.prepared[_KEPT] = kept = key, _made(model, config)
    found: Program = kept[1]
    return found


def _made(model: LatentModel, config: TuneConfig) -> Program:
    compiled, on_cpu = config.backend == "inductor", model.device.type == "cpu"
    plain, trained = plain_denoiser(model, fold=compiled and on_cpu)
    plain.to(memory_format=_layout(compiled, model.device))
    set_attention(plain, "auto", config.backend)
    call = model.call

    def eager(z: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        return call(plain, z, t, cond)

    workers = torch.get_num_threads() if on_cpu else 1
    return Program(
        plain=plain,
        trained=trained,
        eager=eager,
        run=compile_run(eager, model.device) if compiled else eager,
        cores=Cores(workers) if on_cpu and (compiled or workers > 1) else None,
    )


def _key(model: LatentModel, config: TuneConfig) -> tuple[Any, ...]:
    """What a compiled program depends on. Of the frozen weights their place and the count of their
    changes in place: the program shares them, or holds them in another precision."""
    denoiser = denoiser_of(model)
    layers = tuple(n for n, layer in denoiser.named_modules() if isinstance(layer, LoraLayer))
    frozen = tuple(
        (tensor.data_ptr(), tensor._version)
        for name, tensor in denoiser.state_dict(keep_vars=True).items()
        if ".lora_" not in name
    )
    recomputes = config.gradient_checkpointing
    return config.backend, model.precision, recomputes, torch.get_num_threads(), layers, frozen


def _layout(compiled: bool, device: torch.device) -> torch.memory_format:
    """The memory format of the convolutions: compiled on a GPU, the one that tensor cores take.
    With gradients, inductor does not change the layout itself, by its rule for convolutions as wide
    as these. The frozen weights are the model's own tensors: their layout changes too, their values
    do not."""
    if compiled and device.type == "cuda":
        return torch.channels_last
    return torch.preserve_format
