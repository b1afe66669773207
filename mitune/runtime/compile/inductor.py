"""torch.compile as this package uses it, and the cache of what it compiles."""

import functools
import inspect
import os
import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mitune.core.caches import cache_folder, writable
from mitune.core.errors import UserError
from mitune.models.protocol import Conditioning
from mitune.runtime.compile import onednn

Run = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(latents, timesteps, conditioning) to the prediction, row by row. With twice the rows of
conditioning it returns twice the predictions (``mitune.runtime.cfg_batch``)."""


def compile_run(run: Run, device: torch.device) -> Run:
    """Compile ``run`` with torch.compile: one graph, static shapes, code cached between runs. On a
    CPU, threads may call the result at the same time."""
    # If the user has not set the folder: torch's default is a temporary folder, which it names
    # after the user, who may have no name.
    given = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if not given:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder() / "inductor")
    elif not writable(Path(given)):
        raise UserError(
            f"TORCHINDUCTOR_CACHE_DIR is {given}, which cannot be written: expected a folder for "
            "what is compiled, or unset it"
        )
    if device.type != "cpu":
        return torch.compile(run, fullgraph=True, dynamic=False, **_alone())
    return _ForThreads(run) if compiler() is not None else _OneByOne(run)


@functools.cache
def compiler() -> Callable[..., Any] | None:
    """inductor's ``compile_fx``, which is private to torch; None if this version has none."""
    try:
        from torch._inductor.compile_fx import compile_fx
    except ImportError:
        return None
    return compile_fx if "config_patches" in inspect.signature(compile_fx).parameters else None


class _OneByOne:
    """Plain torch.compile, for a torch that lacks what ``_ForThreads`` needs. Its guards are not
    thread-safe, so threads take turns."""

    def __init__(self, run: Run) -> None:
        self._compiled = torch.compile(run, fullgraph=True, dynamic=False, **_alone())
        self._lock = threading.Lock()

    def __call__(self, z: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        with self._lock:
            return self._compiled(z, t, cond)


class _ForThreads:
    """Calls the code that torch.compile made for a shape without torch's guards.

    Guards take a hundredth of a call each, run in one thread at a time and are not thread-safe:
    objects that two threads check at once look changed, and everything is compiled again, up to
    torch's limit of eight times. Nothing that guards check changes here: weights keep their
    addresses, and all calls of one object are made with gradients, or all without.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._made: dict[Hashable, Callable[..., Tensor]] = {}
        self._lock = threading.Lock()

    def __call__(self, z: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        given = z, t, *cond.values()
        key = *cond, *((x.shape, x.stride(), x.dtype) for x in given)
        made = self._made.get(key)
        if made is None:
            with self._lock:
                made = self._made.get(key) or self._compile(z, t, cond)
                self._made[key] = made
        return made(*given)

    def _compile(self, z: Tensor, t: Tensor, cond: Conditioning) -> Callable[..., Tensor]:
        made: list[Callable[..., Tensor]] = []
        given = z, t, *cond.values()

        def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
            # C++ for the calls between kernels too: in Python they hold the GIL.
            patches: dict[str, Any] = {"cpp_wrapper": True}
            from torch._inductor import config

            if hasattr(config, "cpp_wrapper_build_separate"):
                # Apart from the kernels, the code that only calls them is compiled with -O1, and
                # compilation takes a third less time.
                patches["cpp_wrapper_build_separate"] = True
            if onednn.why_not() is None:
                patches["post_grad_custom_post_pass"] = onednn.by_onednn()
            compile_fx = compiler()
            assert compile_fx is not None
            code: Any = compile_fx(graph, inputs, config_patches=patches)
            # Weights are inputs as well, the same at every call; only our arguments are replaced.
            places = [
                (i, j) for i, x in enumerate(inputs) for j, own in enumerate(given) if x is own
            ]

            def call(*now: Tensor) -> Tensor:
                values = list(inputs)
                for i, j in places:
                    values[i] = now[j]
                prediction: Tensor = code(*values)[0]
                return prediction

            made.append(call)
            return code  # type: ignore[no-any-return]

        torch.compile(self._run, backend=backend, fullgraph=True, dynamic=False, **_alone())(
            z, t, cond
        )
        return made[0]


def _alone() -> dict[str, Any]:
    """An option of ``torch.compile`` from torch 2.13 on: each network counts its own compilations,
    of which the ninth is an error."""
    known = "isolate_recompiles" in inspect.signature(torch.compile).parameters
    return {"isolate_recompiles": True} if known else {}
