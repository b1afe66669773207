"""Exact counts that stand for a run's cost and are the same on any machine.

Continuous integration compares them with ``bench/proxies.json`` and does not look at wall time.
``python -m mitune.bench.proxies`` prints the current counts.
"""

import json
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import mitune
from mitune.bench.step import Case
from mitune.config.sampling import SamplerConfig
from mitune.core.provenance import versions
from mitune.engine.policies import Chain, Finish, Halving, Policy
from mitune.engine.request import EngineStats
from mitune.engine.stream import generate, pool
from mitune.runtime.prepared import Prepared
from mitune.worlds.shapes.world import SHAPES


class Operations(TorchDispatchMode):
    """Records the names of the torch operations that run, except views, which move no data."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def counted_for() -> dict[str, str]:
    """The versions on which the counts depend, without the build tag of torch, which does not
    matter."""
    return {name: str(versions()[name]).split("+")[0] for name in ("torch", "diffusers")}


def proxies() -> dict[str, Any]:
    """Count the operations of a model call and of a tick of the embedded model, the rows that the
    denoiser computes for each candidate of small pools with and without pruning, and the bytes of a
    step."""
    model = mitune.load("shapes", device="cpu")
    prepared = Prepared(model)
    cond = prepared.encode_prompts(["a red circle", ""])
    with torch.no_grad(), Operations() as call:
        prepared.pairs(torch.zeros(1, *model.latent_shape), torch.ones(1), cond)
    sampler = SamplerConfig(steps=10, guidance=7.5, convention="reference")
    texts = SHAPES.prompts("train")[:4]
    with Operations() as short:
        list(generate(prepared, texts, sampler=sampler, slots=4, requests=pool(texts, 1)))
    with Operations() as long:
        list(generate(prepared, texts, sampler=sampler, steps=20, slots=4, requests=pool(texts, 1)))
    finish = Finish(step=9, keep=1)
    policies: dict[str, Policy | None] = {
        "plain": None,
        "exact": finish,
        "halving": Chain(policies=(Halving(at=((4, 3), (6, 2))), finish)),
    }
    rows = {}
    for name, policy in policies.items():
        stats = EngineStats()
        list(
            generate(
                prepared,
                texts,
                candidates=6,
                sampler=sampler,
                slots=8,
                policy=policy,
                stats=stats,
            )
        )
        rows[name] = stats.rows / (len(texts) * 6)
    return {
        "versions": counted_for(),
        "operations_per_model_call": len(call.names),
        "operations_per_tick": (len(long.names) - len(short.names)) / 10,
        "rows_per_candidate": rows,
        "bytes_per_step": Case(128, 16384, noisy=False, device=torch.device("cpu")).bytes,
    }


if __name__ == "__main__":
    print(json.dumps(proxies(), indent=2))
