"""What a GPU run measures beside ``mitune bench``: one stage, in a process of its own.

    python bench/stages.py STAGE --out FOLDER [--tiny]

The stages that compile leave code in torch's cache, which those after them find: side by side they
take as long as the longest. A lever is a change that may make a tick faster: its process compiles
side by side with the others, waits for the file FOLDER/go-NAME, and then times its ticks alone.
Figures go to FOLDER/stages.jsonl, each as soon as it is known.
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch._inductor import config as inductor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from mitune.bench.baselines import FairLoop
from mitune.bench.figures import doing
from mitune.bench.random_model import TINY
from mitune.bench.rungs import Setting, load_model
from mitune.bench.step import timeable
from mitune.bench.train import OurTrainer
from mitune.bench.verify import fault
from mitune.config.runtime import Runtime
from mitune.config.sampling import SamplerConfig
from mitune.config.sets import GenerateConfig
from mitune.config.training import TuneConfig
from mitune.engine.engine import Engine
from mitune.engine.stream import Ready
from mitune.runtime.prepared import Prepared
from mitune.worlds.shapes.world import SHAPES

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
    prompts=SHAPES.prompts("train")[:2],
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


def compile_step() -> None:
    """Triton compiles a kernel for every layout and dtype that the comparison tries."""
    for name in timeable(DEVICE):
        note(implementation=name, fault=fault(name, DEVICE))


def compile_fair() -> None:
    doing("loading")
    model = load_model(SETTING, "bfloat16")
    loop = FairLoop(model, candidates=args.candidates, steps=args.steps, guidance=7.5, seed=0)
    doing("compiling the fair loop")
    loop(SETTING.prompts[0], steps=1)
    wait()


def training() -> OurTrainer:
    doing("loading")
    model = load_model(SETTING, "bfloat16")
    pairs = [(text, torch.randn(model.latent_shape)) for text in SHAPES.prompts("train")[:20]]
    config = replace(TuneConfig(), batch=args.micro_batch, micro_batch=args.micro_batch)
    return OurTrainer(model, pairs, replace(config, gradient="merged", backend=BACKEND))


def compile_training() -> None:
    trainer = training()
    doing("compiling the trainer")
    trainer.gradient(0)
    wait()


def profiled(work: Callable[[], object], name: str) -> None:
    """The file ``name``: where the time of ``work`` goes, kernel by kernel."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if CUDA else [])]
    with profiler(activities=activities) as seen:
        work()
        wait()
    key = "self_cuda_time_total" if CUDA else "self_cpu_time_total"
    table = seen.key_averages().table(sort_by=key, row_limit=60, max_name_column_width=110)
    (args.out / name).write_text(table)


def tick_seconds(engine: Engine) -> float:
    """Of an uncaptured tick, the median of five pairs."""
    taken = []
    for _ in range(5):
        begin = time.perf_counter()
        engine.warm_up()
        taken.append((time.perf_counter() - begin) / 2)
    return median(taken)


def profile() -> None:
    engine = ready().engine
    note(tick_seconds=tick_seconds(engine))
    profiled(engine.warm_up, "profile-tick.txt")


def profile_training() -> None:
    trainer = training()
    trainer.gradient(0)
    begin = time.perf_counter()
    trainer.gradient(1)
    note(micro_batch_seconds=time.perf_counter() - begin, samples=args.micro_batch)
    profiled(lambda: trainer.gradient(2), "profile-micro-batch.txt")


def lever() -> None:
    name = args.stage.removeprefix("lever-")
    with LEVERS[name]():
        engine = ready().engine
        note(compiled=True)
        while not (args.out / f"go-{name}").exists():
            time.sleep(0.2)
        note(tick_seconds=tick_seconds(engine))


LEVERS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    # torch chooses FlashAttention-2 for bfloat16 and asks cuDNN last.
    "cudnn": lambda: sdpa_kernel(
        [SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
        set_priority=True,
    ),
    "conv1x1": lambda: inductor.patch(conv_1x1_as_mm=True),
}
STAGES: dict[str, Callable[[], None]] = {
    "compile-ours": compile_ours,
    "compile-step": compile_step,
    "compile-fair": compile_fair,
    "compile-training": compile_training,
    "profile": profile,
    "profile-training": profile_training,
    **{f"lever-{name}": lever for name in LEVERS},
}
begin = time.perf_counter()
STAGES[args.stage]()
note(seconds=time.perf_counter() - begin, torch=torch.__version__)
