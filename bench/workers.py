"""What host threads could gain a CPU's compiled denoiser: pinned ones, ones without Python, and
AOTInductor's package in the place of torch.compile's code.

    python bench/workers.py [--slots 64] [--repeats 15] [--out FILE.jsonl]

Each line is one way to run the same batch, in seconds a call, the median of the repeats, taken in
turns so that a neighbour disturbs all alike. ``unbroken`` is the bound for any worker without the
interpreter lock: each worker makes all its calls in one go, and nobody waits between two calls.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

import mitune
from mitune.core.provenance import environment
from mitune.runtime.backends import PerCore
from mitune.runtime.malloc import keep_freed_memory
from mitune.runtime.prepared import Prepared

parser = argparse.ArgumentParser()
parser.add_argument("--slots", type=int, default=64)
parser.add_argument("--repeats", type=int, default=15)
parser.add_argument("--calls", type=int, default=8, help="of one measurement")
parser.add_argument("--out", type=Path)
args = parser.parse_args()


def batch(prepared: Prepared) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Latents once, conditioning twice, as the engine gives them."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(args.slots, *prepared.model.latent_shape, generator=generator)
    cond = prepared.encode_prompts(["a red circle above a blue square"])
    rows = {name: x.expand(2 * args.slots, *x.shape[1:]).clone() for name, x in cond.items()}
    return z, torch.full((args.slots,), 500.0), rows


def in_turn(run: PerCore, given: tuple[Tensor, Tensor, dict[str, Tensor]]) -> Callable[[], None]:
    def calls() -> None:
        for _ in range(args.calls):
            run(*given)

    return calls


def unbroken(run: PerCore, given: tuple[Tensor, Tensor, dict[str, Tensor]]) -> Callable[[], None]:
    """Every worker makes its part ``calls`` times and then answers once."""
    once = run._one

    def repeated(chunk: tuple[Tensor, Tensor, dict[str, Tensor]]) -> Tensor:
        for _ in range(args.calls):
            made = once(chunk)
        return made

    def calls() -> None:
        run._one = repeated  # type: ignore[method-assign]
        try:
            run(*given)
        finally:
            run._one = once  # type: ignore[method-assign]

    return calls


def pinned(run: PerCore) -> PerCore:
    """The same workers, each kept on a processor of its own."""
    processors = sorted(os.sched_getaffinity(0))
    taken = iter(processors)
    run._cores.map(lambda _: (time.sleep(0.2), os.sched_setaffinity(0, {next(taken)})), range(2))
    return run


def packaged(prepared: Prepared, given: tuple[Tensor, Tensor, dict[str, Tensor]]) -> PerCore:
    """AOTInductor's package of the same network for one worker's rows."""
    workers = torch.get_num_threads()
    z, t, cond = given
    rows = args.slots // workers
    part = {n: x.unflatten(0, (2, -1))[:, :rows].flatten(0, 1) for n, x in cond.items()}

    class Call(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = prepared.network

        def forward(self, z: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
            return prepared._call(self.network, z, t, cond)

    with torch.no_grad():
        exported = torch.export.export(Call(), (z[:rows], t[:rows], part))
    folder = Path(tempfile.mkdtemp())
    path = torch._inductor.aoti_compile_and_package(exported, package_path=str(folder / "n.pt2"))
    loaded = torch._inductor.aoti_load_package(path)
    return PerCore(lambda z, t, cond: loaded(z, t, cond), workers)


def main() -> None:
    keep_freed_memory()
    prepared = Prepared(mitune.load("shapes"), "inductor")
    given = batch(prepared)
    run = prepared._run
    assert isinstance(run, PerCore)
    ways: dict[str, Callable[[], None]] = {}
    ways["pool"], ways["unbroken"] = in_turn(run, given), unbroken(run, given)
    other = PerCore(run._run, torch.get_num_threads())
    ways["pinned"] = in_turn(pinned(other), given)
    try:
        package = packaged(prepared, given)
        difference = (package(*given) - run(*given)).abs().max() / run(*given).abs().max()
        print(f"AOTInductor's package: {float(difference):.1e} from torch.compile's", flush=True)
        ways["aoti"] = in_turn(package, given)
    except Exception as error:  # the others are measured without it
        print(f"no AOTInductor package: {type(error).__name__}: {str(error)[:300]}", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(args.repeats + 1):
        for name, work in ways.items():
            start = time.perf_counter()
            work()
            if number:  # the first compiles, and warms up
                seconds[name].append((time.perf_counter() - start) / args.calls)
    first = median(seconds["pool"])
    for name, all_of_it in seconds.items():
        row = {
            "way": name,
            "seconds": median(all_of_it),
            "ratio_to_pool": median(all_of_it) / first,
            "slots": args.slots,
            **environment(torch.device("cpu")),
        }
        print(f"{name:<10} {row['seconds'] * 1e3:8.2f} ms {row['ratio_to_pool']:6.3f} of the pool")
        if args.out:
            with args.out.open("a") as file:
                file.write(json.dumps(row, default=str) + "\n")


if __name__ == "__main__":
    main()
