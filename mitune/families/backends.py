"""What runs a UNet, by name: torch operation by operation, or compiled for one shape."""

import importlib.util
import inspect
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor

from mitune.errors import UserError
from mitune.families.tensorrt_engine import TensorRT

Run = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(latents, timesteps, text) to the prediction, rows for rows; with twice the rows of text to twice
the predictions (``mitune.families.pairs``)."""

BACKENDS = {
    "eager": "torch, operation by operation",
    "inductor": "torch.compile of the whole UNet for one shape; on a CPU one worker for each core",
    "tensorrt": "an engine for each shape, where TensorRT is installed and a GPU is there",
}
ATTENTIONS = {
    "auto": "math for small maps where a CPU runs them compiled, else sdpa",
    "sdpa": "torch's scaled_dot_product_attention",
    "math": "two matrix products and a softmax",
    "xformers": "xformers' memory-efficient attention, where it is installed",
}
_SMALL_MAP = 256
"""Tokens up to which products and a softmax beat the CPU's flash attention (docs/measured.md)."""


def run_by(backend: str, unet: Any) -> Run:
    """The UNet as ``backend`` runs it. Its weights may change afterwards, in place; TensorRT has to
    be told (``refit``).

    Raises:
        UserError: an unknown name, or one that does not run here.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend {backend!r} is not known: choose one of {', '.join(BACKENDS)}")
    device = next(unet.parameters()).device
    if backend == "tensorrt":
        if device.type != "cuda":
            raise UserError(f"backend tensorrt needs a GPU and the model is on the {device}")
        return TensorRT(unet, _cache() / "tensorrt")

    def plain(z: Tensor, t: Tensor, text: Tensor) -> Tensor:
        prediction: Tensor = unet(z, t, encoder_hidden_states=text, return_dict=False)[0]
        return prediction

    if backend == "eager":
        return plain
    # Kept between runs, where the user has not said where: torch's own default is a temporary
    # folder.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_cache() / "inductor"))
    if device.type != "cpu":
        return torch.compile(plain, fullgraph=True, dynamic=False, **_alone())
    # The calls between kernels in C++ too: in Python they hold the lock that the workers share.
    compiled: Run = torch.compile(
        plain, fullgraph=True, dynamic=False, options={"cpp_wrapper": True}, **_alone()
    )
    return _PerCore(compiled, torch.get_num_threads())


def _alone() -> dict[str, Any]:
    """Of ``torch.compile``, from torch 2.13 on: each UNet counts its own compilations, of which the
    ninth is an error."""
    known = "isolate_recompiles" in inspect.signature(torch.compile).parameters
    return {"isolate_recompiles": True} if known else {}


def set_attention(unet: Any, attention: str, backend: str) -> None:
    """Choose the attention of a UNet that ``backend`` is going to run, in place.

    Raises:
        UserError: an unknown name; or xformers that is not installed.
    """
    if attention not in ATTENTIONS:
        raise UserError(
            f"attention {attention!r} is not known: choose one of {', '.join(ATTENTIONS)}"
        )
    if attention == "auto":
        size = unet.config.sample_size
        tokens = math.prod(size) if isinstance(size, (tuple, list)) else size * size
        on_cpu = next(unet.parameters()).device.type == "cpu"
        small = on_cpu and backend == "inductor" and tokens <= _SMALL_MAP
        attention = "math" if small else "sdpa"
    if attention == "xformers":
        if importlib.util.find_spec("xformers") is None:
            raise UserError(
                "attention xformers is not installed: pip install xformers, built for the same "
                "CUDA as torch; or use sdpa"
            )
        unet.enable_xformers_memory_efficient_attention()
    else:
        unet.set_attn_processor(AttnProcessor() if attention == "math" else AttnProcessor2_0())


class _PerCore:
    """Splits a batch over one worker thread for each core.

    A worker runs its rows alone from beginning to end, so that no core waits for another after
    every operation, which small operations otherwise spend much of their time with.
    """

    def __init__(self, run: Run, workers: int) -> None:
        self._run = run
        self._workers = workers
        self._shapes: set[tuple[torch.Size, torch.Size]] = set()
        threads = torch.get_num_threads()
        started = threading.Barrier(workers + 1)

        def begin() -> None:
            # A thread takes over the common number when it first asks: only then can it have its
            # own.
            torch.get_num_threads()
            torch.set_num_threads(1)
            started.wait()

        self._pool = ThreadPoolExecutor(workers, "mitune-worker", begin)
        for _ in range(workers):
            self._pool.submit(int)
        started.wait()
        torch.set_num_threads(threads)  # of this thread and of those that are yet to come

    def __call__(self, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
        parts = next(n for n in range(self._workers, 0, -1) if len(z) % n == 0)
        # A worker's rows of text: of each half of a pair's the same.
        texts = text.unflatten(0, (-1, len(z))).chunk(parts, dim=1)
        chunks = zip(z.chunk(parts), t.chunk(parts), texts, strict=True)
        shapes = z.shape, text.shape
        if shapes in self._shapes:
            made = list(self._pool.map(self._one, chunks))
        else:
            # The first call compiles: one after the other, so that it is done once.
            self._shapes.add(shapes)
            made = [self._pool.submit(self._one, chunk).result() for chunk in chunks]
        return torch.cat(made, dim=1).flatten(0, 1)

    @torch.no_grad()  # a thread's own setting, which the caller's does not reach
    def _one(self, chunk: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        z, t, text = chunk
        halves: Tensor = self._run(z, t, text.flatten(0, 1)).unflatten(0, (-1, len(z)))
        return halves


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mitune"
