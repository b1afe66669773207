"""The list of rungs, and how each one runs."""

from dataclasses import replace
from functools import cached_property
from typing import Any

from mitune_kernels import implementations
from torch import Tensor

from mitune.bench.baselines import AuthorsLoop, FairLoop
from mitune.bench.figures import doing
from mitune.bench.flops import denoiser_flops
from mitune.bench.pruned import pruning
from mitune.bench.random_model import TINY
from mitune.bench.rungs import (
    Made,
    Setting,
    load_model,
    run_draft,
    run_engine,
    run_loop,
    run_settled,
    with_own_denoiser,
)
from mitune.engine.engine import counted_steps
from mitune.engine.policies import Finish
from mitune.models.protocol import LatentModel
from mitune.runtime.convolutions import exact_convolutions
from mitune.runtime.malloc import keep_freed_memory
from mitune.runtime.mixed_precision import halves_pay
from mitune.runtime.prepared import Prepared

RUNGS = (
    "slots",
    "authors",
    "fair",
    "fair kept",
    "half",
    "compiled",
    "captured",
    "captured triton",
    "captured cuda",
    "fused",
    "exact",
    "settled",
    "halving late",
    "halving early",
    "threshold",
    "exact float32",
)
"""There is one more rung, ``draft N``, where N is the number of candidates that it generates a
second time. The rungs ``captured`` (with the reference step, or with a GPU kernel) run only on a
GPU."""
BASELINES = ("authors", "fair")
PRUNED = {"halving late", "halving early", "threshold"}
SETTLE_REACH = 0.4
"""The reach of the rung ``settled``; see ``mitune.selection.recheck``."""
DRAFT_VERIFIES = 5
"""Candidates of each pool that the rung ``draft`` generates a second time in float32."""


class Rungs:
    """Runs each rung; loads and compiles models only when a rung needs them."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._eager = replace(setting, captures=False)
        self._verify = min(DRAFT_VERIFIES, setting.candidates)
        self.names = (*RUNGS, f"draft {self._verify}")

    def runs_here(self, name: str) -> bool:
        """Whether the rung can run on the device."""
        if name.startswith("captured "):
            step = name.removeprefix("captured ")
            return self.setting.captures and implementations()[step] is None
        if name == "captured":
            return self.setting.captures
        return name != "fair kept" or self.setting.device == "cpu"

    def run(self, name: str, fused: Made | None) -> Made | None:
        """Run the rung of that name. ``fused`` is the result of that rung, which rungs that prune
        need. Returns None if the rung's policy does not fit the setting, or the C library cannot
        keep freed memory (``fair kept``)."""
        setting, eager, few = self.setting, self._eager, self.setting.slow
        # Baselines run with the C library's defaults for freed memory. Our rungs run after them
        # with freed memory kept; "fair kept" gives the fair baseline the same advantage.
        kept = name not in BASELINES and keep_freed_memory()
        finish = self.finish()
        if name == "authors":
            return run_loop(AuthorsLoop(self._full, **self._loop), few)
        if name == "fair kept" and not kept:
            return None
        if name in ("fair", "fair kept"):
            return run_loop(FairLoop(self._fair, **self._loop), few)
        if name == "slots":
            with exact_convolutions():
                plain = Prepared(self._full)
                return run_engine(plain, replace(few, captures=False), implementation="reference")
        if name == "exact float32":
            with exact_convolutions():
                return run_engine(self._float32, few, lambda p: finish)
        if name == "half":
            half = Prepared(self._full, precision=setting.precision)
            return run_engine(half, eager, implementation="reference")
        compiled = self._compiled
        if name == "compiled":
            return run_engine(compiled, eager, implementation="reference")
        if name.startswith("captured"):
            step: Any = name.removeprefix("captured").strip() or "reference"
            return run_engine(compiled, setting, implementation=step)
        if name == "fused":
            return run_engine(compiled, setting)
        if name == "exact":
            return run_engine(compiled, setting, lambda p: finish)
        if name == "settled":
            return run_settled(compiled, self._float32, few, finish, SETTLE_REACH)
        if name.startswith("draft"):
            return run_draft(compiled, self._float32, few, finish, self._verify)
        assert name in PRUNED
        assert fused is not None
        policy = pruning(fused, setting, self.weights(), finish).get(name)
        return None if policy is None else run_engine(compiled, setting, policy)

    def flops(self) -> float:
        """Floating-point operations of one row's pass."""
        return denoiser_flops(self._full)

    def weights(self) -> Tensor:
        """The weight of each step in the score."""
        sampler = self.setting.sampler
        return self._full.schedule(sampler).weights(sampler.convention, sampler.t_min)

    def finish(self) -> Finish:
        """The exact policy: only the best candidate takes the steps without weight."""
        return Finish(step=counted_steps(self.weights()), keep=1)

    @property
    def _loop(self) -> dict[str, Any]:
        sampler = self.setting.sampler
        return {
            "candidates": self.setting.candidates,
            "steps": sampler.steps,
            "guidance": sampler.guidance,
            "seed": self.setting.seed,
        }

    @cached_property
    def _full(self) -> LatentModel:
        doing(f"loading {self.setting.model}")
        return load_model(self.setting, "float32")

    @cached_property
    def _fair(self) -> LatentModel:
        """The model of the fair baseline: in bfloat16 where that is faster, else in float32."""
        pays = halves_pay(self._full.device)
        return with_own_denoiser(self._full, "bfloat16" if pays else "float32")

    @cached_property
    def _float32(self) -> Prepared:
        return Prepared(self._full, self._backend)

    @cached_property
    def _compiled(self) -> Prepared:
        return Prepared(self._full, self._backend, precision=self.setting.precision)

    @property
    def _backend(self) -> str:
        """The compiling backend; "eager" for a rehearsal with the tiny model."""
        return "eager" if self.setting.model == TINY else "inductor"
