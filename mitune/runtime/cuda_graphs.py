"""CUDA graphs: work is recorded once and replayed, so that no kernel launch waits for Python."""

from collections.abc import Callable
from typing import Any

import torch

from mitune.core.errors import UserError


def need_gpu(device: torch.device) -> None:
    """Raise UserError unless work on ``device`` can be captured."""
    if device.type != "cuda":
        raise UserError(
            f"cuda_graphs is on and the device is {device}: expected a CUDA GPU; "
            "leave it off elsewhere"
        )


def capture(work: Callable[[], None], device: torch.device, pool: Any = None) -> Callable[[], None]:
    """Record ``work`` as a CUDA graph; calling the result replays the same operations on the same
    memory.

    Args:
        work: must not wait for the device; its shapes and addresses are always the same. It is
            called three times to warm up, and once more to be recorded, without computing anything.
        device: a GPU.
        pool: of memory, ``torch.cuda.graph_pool_handle()``, shared by graphs that never run at the
            same time; None: a pool of its own.
    """
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):  # compiles, and chooses algorithms, outside the graph
            work()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        work()
    return graph.replay
