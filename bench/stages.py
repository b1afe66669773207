"""What a GPU run measures beside ``mitune bench``: one stage, in a process of its own.

    python bench/stages.py compile-ours|compile-fair|compile-training|profile --out FOLDER [--tiny]

The stages that compile leave code in torch's cache, which those after them find: side by side they
take as long as the longest. Figures go to FOLDER/stages.jsonl, each as soon as it is known.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mitune.bench.baselines import FairLoop
from mitune.bench.figures import doing
from mitune.bench.random_model import TINY
from mitune.bench.rungs import Setting, load_model
from mitune.bench.train import OurTrainer
from mitune.config.runtime import Runtime
from mitune.config.sampling import SamplerConfig
from mitune.config.sets import GenerateConfig
from mitune.config.training import TuneConfig
from mitune.engine.stream import Ready
from mitune.runtime.prepared import Prepared
from mitune.worlds.shapes.prompts import prompts

parser = argparse.ArgumentParser()
parser.add_argument("stage")
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--device", default="cuda")
parser.add_argument("--tiny", action="store_true", help="a rehearsal: small, nothing is compiled")
parser.add_argument("--slots", type=int, default=50)
parser.add_argument("--candidates", type=int, default=50)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--micro-batch", type=int, default=16)
args = parser.parse_args()
DEVICE = torch.device(args.device)
CUDA = DEVICE.type == "cuda"
BACKEND = "eager" if args.tiny else "inductor"
SETTING = Setting(
    model=TINY if args.tiny else "sd21-base-random",
    prompts=prompts("train")[:2],
    candidates=args.candidates,
    sampler=SamplerConfig(steps=args.steps, guidance=7.5, convention="reference"),
    slots=args.slots,
    precision="bfloat16",
    device=args.device,
    captures=CUDA,
)
if args.tiny:
    torch.compile = lambda run, **_: run  # type: ignore[assignment]


def note(**figures: Any) -> None:
    """A line of the stages' file."""
    line = json.dumps({"stage": args.stage, **figures}, default=str)
    with (args.out / "stages.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


def wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def ready() -> Ready:
    doing("loading")
    prepared = Prepared(load_model(SETTING, "float32"), BACKEND, precision=SETTING.precision)
    doing("compiling ours")
    made = Ready(
        prepared,
        SETTING.prompts,
        GenerateConfig(sampler=SETTING.sampler, runtime=Runtime(slots=SETTING.slots)),
    )
    made.engine.warm_up()
    return made


def compile_ours() -> None:
    ready()


def compile_fair() -> None:
    doing("loading")
    model = load_model(SETTING, "bfloat16")
    loop = FairLoop(model, candidates=args.candidates, steps=args.steps, guidance=7.5, seed=0)
    doing("compiling the fair loop")
    loop(SETTING.prompts[0], steps=1)
    wait()


def compile_training() -> None:
    doing("loading")
    model = load_model(SETTING, "bfloat16")
    pairs = [(text, torch.randn(model.latent_shape)) for text in prompts("train")[:20]]
    config = replace(TuneConfig(), batch=args.micro_batch, micro_batch=args.micro_batch)
    trainer = OurTrainer(model, pairs, replace(config, gradient="merged", backend=BACKEND))
    doing("compiling the trainer")
    trainer.gradient(0)
    wait()


def profile() -> None:
    """Where a tick's time goes, kernel by kernel; and how long it takes uncaptured."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    engine = ready().engine
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if CUDA else [])]
    with profiler(activities=activities) as seen:
        engine.warm_up()
    key = "self_cuda_time_total" if CUDA else "self_cpu_time_total"
    table = seen.key_averages().table(sort_by=key, row_limit=60, max_name_column_width=110)
    (args.out / "profile.txt").write_text(table)
    begin = time.perf_counter()
    for _ in range(3):
        engine.warm_up()
    note(tick_seconds=(time.perf_counter() - begin) / 6, profile="profile.txt")


STAGES: dict[str, Callable[[], None]] = {
    "compile-ours": compile_ours,
    "compile-fair": compile_fair,
    "compile-training": compile_training,
    "profile": profile,
}
begin = time.perf_counter()
STAGES[args.stage]()
note(seconds=time.perf_counter() - begin, torch=torch.__version__)
