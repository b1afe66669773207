"""What align gains from a compiled trainer: the same alignment of the embedded model, compiled
generation both times, with training run by torch operation by operation and compiled.

    python bench/align.py [--prompts 30] [--rounds 2] [--repeats 3]

Everything is compiled and warm before the clock starts; the two are timed in turns. Processor
seconds, of all threads together, hardly depend on what else the machine does.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

import mitune
from mitune.core import progress
from mitune.core.provenance import environment
from mitune.runtime.malloc import keep_freed_memory
from mitune.worlds.shapes.world import SHAPES

parser = argparse.ArgumentParser()
parser.add_argument("--prompts", type=int, default=30)
parser.add_argument("--rounds", type=int, default=2)
parser.add_argument("--repeats", type=int, default=3)
args = parser.parse_args()


def run(training: str) -> tuple[float, float, float]:
    """Seconds of the whole alignment, of its training steps, and processor seconds of the whole."""
    model = mitune.load("shapes")
    tuning = replace(model.preset.tuning, backend=training)
    texts = SHAPES.prompts("train")[: args.prompts]
    with tempfile.TemporaryDirectory() as folder:
        start, used = time.perf_counter(), time.process_time()
        mitune.align(model, texts, folder, rounds=args.rounds, backend="inductor", tuning=tuning)
        whole, used = time.perf_counter() - start, time.process_time() - used
        files = sorted(Path(folder).glob("round-*/adapter/metrics.jsonl"))
        lines = [line for file in files for line in file.read_text().splitlines()]
        steps = [json.loads(line)["seconds"] for line in lines]
    # The first step of a process traces what it compiles, and checks it against eager.
    return whole, sum(steps[1:]), used


progress.quiet_libraries()
keep_freed_memory()
found: dict[str, list[tuple[float, float, float]]] = {"eager": [], "inductor": []}
for number in range(args.repeats + 1):
    for training, seconds in found.items():
        once = run(training)
        if number:  # the first fills the caches
            seconds.append(once)
        print(
            f"{training:<9} align {once[0]:6.1f} s, its training steps {once[1]:6.1f} s; "
            f"{once[2]:6.1f} processor seconds",
            flush=True,
        )
whole, steps, used = ({t: median(s[i] for s in found[t]) for t in found} for i in (0, 1, 2))
print(
    f"compiled: align {whole['eager'] / whole['inductor']:.2f} times as fast, its training steps "
    f"{steps['eager'] / steps['inductor']:.2f} times; "
    f"{used['eager'] / used['inductor']:.2f} times fewer processor seconds"
)
found_all = {"whole": whole, "steps": steps, "processor": used}
print(json.dumps({**found_all, **environment(torch.device("cpu"))}))
