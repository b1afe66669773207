"""How a fleet's driver and store behave at scale, with workers whose engine only waits.

    python tests/fleet/scale.py workers --workers 64 --units 2560 --seconds 5
    python tests/fleet/scale.py workers --workers 64 --units 2560 --seconds 5 --deaths 1
    python tests/fleet/scale.py store --prompts 20000 --candidates 50

workers: throughput against the ideal, workers times units a second, from the moment when all have
joined until the last unit is given out; deaths: of every hundred workers a minute.
store: a set of a million candidates through the real writer: seconds to begin again with one part
missing, as a fleet's worker and as one process, and the most memory.
"""

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "sets")]


@dataclass(frozen=True)
class WaitingJob:
    """Units that take ``seconds`` each; workers leave their process's number in ``folder``."""

    count: int
    seconds: float
    folder: str

    def __call__(self) -> "WaitingWork":
        (Path(self.folder) / str(os.getpid())).touch()
        return WaitingWork(self)


class WaitingWork:
    def __init__(self, job: WaitingJob) -> None:
        self.units, self.seconds = job.count, job.seconds

    def pending(self) -> list[int]:
        return list(range(self.units))

    def make(self, unit: int) -> None:
        time.sleep(self.seconds)


def workers(count: int, units: int, seconds: float, deaths: float) -> dict:
    import ray

    from mitune.fleet.events import FILE, Events
    from mitune.fleet.on_ray import Cluster, run

    path = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])
    ray.init(
        "local",
        num_cpus=count,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )
    out, pids = Path(tempfile.mkdtemp()), tempfile.mkdtemp()
    ended, killed = threading.Event(), []

    def kill() -> None:
        chance = random.Random(0)
        while not ended.wait(60 / (count * deaths / 100)):
            living = sorted(Path(pids).iterdir())
            if len(living) >= count:
                victim = chance.choice(living)
                victim.unlink()
                os.kill(int(victim.name), signal.SIGKILL)
                killed.append(victim.name)

    if deaths:
        threading.Thread(target=kill, daemon=True).start()
    begun = time.monotonic()
    memory: list[int] = []

    def look(done: int, total: int) -> None:
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    done = run(
        WaitingJob(units, seconds, pids),
        Cluster(address="auto", workers=count),
        events=Events(out),
        progress=look,
        tries=20,
    )
    ended.set()
    told = [json.loads(line) for line in (out / FILE).read_text().splitlines()]
    ray.shutdown()
    joined = [each["at"] for each in told if each["event"] == "joined"][:count]
    start = max(joined)
    last_given = [each["at"] for each in told if each["event"] == "given"][-1]
    made = sum(each["event"] == "made" and start < each["at"] <= last_given for each in told)
    return {
        "workers": count,
        "units": units,
        "seconds_a_unit": seconds,
        "deaths": len(killed),
        "made": done.done,
        "aside": len(done.aside),
        "repeated": done.repeated,
        "wall_s": round(time.monotonic() - begun, 1),
        "of_ideal": round(made * seconds / (count * (last_given - start)), 4),
        "driver_growth_mb": round((memory[-1] - memory[len(memory) // 10]) / 1000, 1),
    }


def store(prompts: int, candidates: int) -> dict:
    import torch

    from mitune.config.shard import Shard
    from mitune.engine.candidate import Candidate
    from mitune.sets import FineTuningSet, SetWriter
    from mitune.sets.parts import part_path

    texts = [f"prompt number {n}" for n in range(prompts)]
    generator = torch.Generator().manual_seed(0)
    terms = torch.randn(candidates, 50, 2, generator=generator)
    latent = torch.randn(4, 8, 8, generator=generator)
    folder = Path(tempfile.mkdtemp()) / "set"

    def writer(**options: object) -> SetWriter:
        return SetWriter(folder, {"steps": 50}, texts, candidates, 1, **options)  # type: ignore[arg-type]

    def fill(target: SetWriter) -> None:
        for prompt in target.pending_prompts():
            for index in range(candidates):
                target.add(
                    Candidate(
                        prompt=texts[prompt],
                        prompt_index=prompt,
                        index=index,
                        seed=0,
                        score=float((index * 7919 + prompt) % 1009),
                        terms=terms[index],
                        latent=latent,
                    )
                )

    found: dict = {"candidates": prompts * candidates}

    def timed(name: str, start: float) -> None:
        found[f"{name}_s"] = round(time.perf_counter() - start, 2)
        found[f"{name}_peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000

    start = time.perf_counter()
    with writer() as target:
        found["parts"] = target.parts
        fill(target)
    timed("write", start)
    missing = found["parts"] // 2
    part_path(folder, missing).unlink()
    start = time.perf_counter()
    with writer(locked=False) as target:
        assert target.pending_parts() == [missing]
    timed("resume_as_a_fleet", start)
    start = time.perf_counter()
    with writer(shard=Shard(number=missing, of=found["parts"]), locked=False) as target:
        fill(target)
    timed("make_one_part", start)
    start = time.perf_counter()
    with writer() as target:
        assert target.complete
    timed("resume_as_one_process", start)
    start = time.perf_counter()
    assert FineTuningSet.open(folder).complete
    timed("open", start)
    found["bytes"] = sum(path.stat().st_size for path in (folder / "parts").iterdir())
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["workers", "store"])
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--units", type=int, default=2560)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--deaths", type=float, default=0.0)
    parser.add_argument("--prompts", type=int, default=20_000)
    parser.add_argument("--candidates", type=int, default=50)
    given = parser.parse_args()
    if given.what == "workers":
        print(json.dumps(workers(given.workers, given.units, given.seconds, given.deaths)))
    else:
        print(json.dumps(store(given.prompts, given.candidates)))


if __name__ == "__main__":
    main()
