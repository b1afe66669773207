"""Backends that run a denoiser, by name: torch in eager mode, or compiled for one shape."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mitune.core.caches import cache_folder
from mitune.core.errors import UserError
from mitune.models.protocol import Conditioning, LatentModel
from mitune.runtime.compile.inductor import Run, compile_run
from mitune.runtime.compile.tensorrt import TensorRT
from mitune.runtime.cpu_workers import Cores, threads

BACKENDS = {
    "eager": "torch, operation by operation; on a CPU one worker for each core",
    "inductor": "torch.compile of the network for one shape; on a CPU one worker for each core",
    "tensorrt": "an engine for each shape, where TensorRT is installed and a GPU is there",
}


def need_fixed_shapes(model: LatentModel, backend: str, cuda_graphs: bool) -> None:
    """Raise UserError if what is asked for needs calls of one shape, which the family has not."""
    if model.passes.fixed_shapes or (backend == "eager" and not cuda_graphs):
        return
    asked = "cuda_graphs is on" if cuda_graphs else f"backend is {backend}"
    raise UserError(
        f"{asked}, and a {type(model).__name__} takes each text at its own length: expected "
        "backend eager without cuda_graphs"
    )


def run_by(backend: str, network: Any, call: Callable[..., Tensor]) -> Run:
    """Return ``network`` as ``backend`` runs it. Its weights may change afterwards, in place;
    TensorRT must then be told (``refit``).

    Args:
        backend: a name in BACKENDS.
        network: a denoiser.
        call: of its family, with the arguments ``(network, z, t, cond)``.

    Raises:
        UserError: an unknown name, or a backend that does not run here.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend {backend!r} is not known: choose one of {', '.join(BACKENDS)}")
    device = next(network.parameters()).device
    if backend == "tensorrt":
        if device.type != "cuda":
            raise UserError(f"backend tensorrt needs a GPU and the model is on the {device}")
        return TensorRT(network, call, cache_folder() / "tensorrt")

    def plain(z: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        return call(network, z, t, cond)

    workers = torch.get_num_threads() if device.type == "cpu" else 1
    if backend == "eager":
        return PerCore(plain, workers, compiled=False) if workers > 1 else plain
    compiled = compile_run(plain, device)
    return PerCore(compiled, workers) if device.type == "cpu" else compiled


class PerCore:
    """Splits a batch over one worker thread for each core.

    Args:
        run: what each worker calls.
        workers: their number.
        compiled: whether ``run`` compiles for every shape. If not, a batch that cannot be split
            into equal parts is left to torch's own threads.

    Parts are equal because the network stores the number of rows of a call in one place
    (``mitune.runtime.cfg_batch``), which all workers share.
    """

    def __init__(self, run: Run, workers: int, compiled: bool = True) -> None:
        self._run = run
        self._cores = Cores(workers)
        self._compiled = compiled

    def __call__(self, z: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        parts = self._cores.parts(len(z))
        if parts == 1 and not self._compiled:
            with threads(self._cores.workers):
                return self._run(z, t, cond)
        # Each worker gets the same rows of both halves of the conditioning.
        conds = [
            {n: x.unflatten(0, (-1, len(z))).chunk(parts, dim=1)[i] for n, x in cond.items()}
            for i in range(parts)
        ]
        chunks = list(zip(z.chunk(parts), t.chunk(parts), conds, strict=True))
        shape = (z.shape, *(x.shape for x in cond.values())) if self._compiled else None
        made = self._cores.map(self._one, chunks, shape)
        return torch.cat(made, dim=1).flatten(0, 1)

    @torch.no_grad()  # grad mode is per thread, so the caller's does not apply here
    def _one(self, chunk: tuple[Tensor, Tensor, Conditioning]) -> Tensor:
        z, t, cond = chunk
        rows = {name: halves.flatten(0, 1) for name, halves in cond.items()}
        made: Tensor = self._run(z, t, rows).unflatten(0, (-1, len(z)))
        return made
