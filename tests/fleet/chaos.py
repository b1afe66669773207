"""Random schedules of faults on a Ray cluster of several nodes; the set must be the fault-free one.

    python tests/fleet/chaos.py --schedules 50 --seed 1

A script, because 50 schedules take a while; test_chaos.py runs one. Each schedule starts drivers in
processes of their own on a cluster of two or three nodes, and meanwhile, at random: kills workers,
removes and adds nodes, kills the driver and starts it again, runs two drivers at once, lets writes
fail (EIO) or the disk be full (ENOSPC), sets the clocks of workers wrong, and has a prompt that
kills its worker once or twice.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "sets")]

from fake_build import pool, tree, writer  # noqa: E402
from fake_job import FakeJob, FakeWork  # noqa: E402

FAULTS = ("worker", "node", "driver", "two drivers", "store", "full disk", "clock", "poison")


@dataclass(frozen=True, kw_only=True)
class FaultyJob(FakeJob):
    """``FakeJob`` whose faults are files in a folder, so that they can begin and end.

    Attributes:
        faults: the folder. "store", "full": writes fail. "clock": workers' clocks are wrong.
            "poison-U-N": unit U still kills its worker N times.
    """

    faults: Path = Path()

    def __call__(self) -> "FaultyWork":
        return FaultyWork(self)


class FaultyWork(FakeWork):
    job: FaultyJob

    def __init__(self, job: FaultyJob) -> None:
        if (job.faults / "clock").exists():
            wrong = random.uniform(-1e6, 1e6)
            now = time.time
            time.time = lambda: now() + wrong
        super().__init__(job)
        fsync = os.fsync

        def failing(descriptor: int) -> None:
            for name, number in (("store", 5), ("full", 28)):  # EIO, ENOSPC
                if (job.faults / name).exists() and random.random() < 0.5:
                    raise OSError(number, os.strerror(number))
            fsync(descriptor)

        os.fsync = failing

    def make(self, unit: int) -> None:
        for left in (2, 1):
            fault = self.job.faults / f"poison-{unit}-{left}"
            if fault.exists():
                fault.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        super().make(unit)


def drive(address: str, out: Path, faults: Path) -> None:
    """What a driver's process does."""
    from mitune.fleet.events import Events
    from mitune.fleet.on_ray import Cluster, run

    job = FaultyJob(out=out, seconds=0.05, faults=faults)
    done = run(job, Cluster(address=address, workers=3), tries=50, events=Events(out))
    sys.exit(f"put aside: {done.aside}" if done.aside else 0)


class Schedule:
    """One cluster, one job, some faults."""

    def __init__(self, seed: int, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.chance = random.Random(seed)
        self.out = folder / "set"
        self.faults = folder / "faults"
        self.faults.mkdir(parents=True)
        self.log: list[str] = []
        self.cluster: Any = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(self.chance.randint(1, 2))]
        self.drivers: list[subprocess.Popen[bytes]] = []
        self.kinds = self.chance.sample(FAULTS, self.chance.randint(1, 3))

    def start_driver(self) -> None:
        words = ["--drive", self.cluster.address, str(self.out), str(self.faults)]
        with (self.out.parent / "drivers.log").open("ab") as log:
            self.drivers.append(
                subprocess.Popen([sys.executable, __file__, *words], stdout=log, stderr=log)
            )

    def happen(self, kind: str) -> None:
        """Let one fault happen."""
        self.log.append(f"{time.monotonic():.1f} {kind}")
        if kind == "worker":
            workers = sorted(FakeJob(out=self.out).workers.glob("*"))
            if workers:
                victim = self.chance.choice(workers)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(victim.name), signal.SIGKILL)
                victim.unlink()
        elif kind == "node":
            if self.nodes:
                node = self.nodes.pop(self.chance.randrange(len(self.nodes)))
                self.cluster.remove_node(node, allow_graceful=False)
            self.nodes.append(self.cluster.add_node(num_cpus=1))
        elif kind == "driver":
            driver = self.drivers.pop()
            driver.kill()
            driver.wait()
            self.start_driver()
        elif kind == "two drivers":
            if len(self.drivers) < 2:
                self.start_driver()
        elif kind in ("store", "full disk"):
            name = "full" if kind == "full disk" else "store"
            (self.faults / name).touch()
            time.sleep(self.chance.uniform(0.5, 3.0))
            (self.faults / name).unlink()

    def run(self) -> None:
        """Until the drivers are done; raises if one fails."""
        if "clock" in self.kinds:
            (self.faults / "clock").touch()
        if "poison" in self.kinds:
            unit = self.chance.randrange(7)
            for left in range(1, self.chance.randint(1, 2) + 1):
                (self.faults / f"poison-{unit}-{left}").touch()
        self.start_driver()
        left = self.chance.randint(2, 5)
        deadline = time.monotonic() + 300
        next_fault = time.monotonic() + self.chance.uniform(2.0, 8.0)
        while any(driver.poll() is None for driver in self.drivers):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not done after 300 s: {self.log}")
            if left and time.monotonic() > next_fault:
                self.happen(self.chance.choice(self.kinds))
                left -= 1
                next_fault = time.monotonic() + self.chance.uniform(0.5, 5.0)
            time.sleep(0.1)
        for driver in self.drivers:
            if driver.returncode != 0:
                raise RuntimeError(f"a driver ended with {driver.returncode}")

    def close(self) -> None:
        for driver in self.drivers:
            driver.kill()
            driver.wait()
        self.cluster.shutdown()


def sound(folder: Path) -> dict[str, bytes]:
    """The files of a set, without locks, logs and what killed writers left."""
    return {
        name: content
        for name, content in tree(folder).items()
        if not name.endswith(".tmp") and not name.startswith((".lock", "fleet.jsonl"))
    }


def check(seed: int, folder: Path) -> tuple[list[str], float]:
    """Run one schedule; the set is then complete, sound and the fault-free one. Returns what
    happened and the seconds it took."""
    from mitune.sets import FineTuningSet
    from mitune.sets.verify import verify

    with writer(folder / "whole", prompts_per_part=1) as target:
        for candidate in pool():
            target.add(candidate)
    start = time.monotonic()
    schedule = Schedule(seed, folder)
    try:
        schedule.run()
    except BaseException as error:
        log = folder / "drivers.log"
        told = log.read_text(errors="replace")[-2000:] if log.exists() else ""
        raise RuntimeError(f"seed {seed} ({', '.join(schedule.kinds)}): {error}\n{told}") from error
    finally:
        schedule.close()
    found = FineTuningSet.open(schedule.out)
    assert found.complete, seed
    assert found.table().num_rows == 28, seed
    assert verify(schedule.out).faults == {}, seed
    assert sound(schedule.out) == sound(folder / "whole"), seed
    return schedule.log, time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--schedules", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drive", nargs=3)
    given = parser.parse_args()
    if given.drive:
        address, out, faults = given.drive
        drive(address, Path(out), Path(faults))
    kinds: dict[str, int] = {}
    path = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONPATH"] = path  # for the nodes, and so for their workers
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  they give way to others otherwise
    for number in range(given.schedules):
        with tempfile.TemporaryDirectory() as folder:
            log, seconds = check(given.seed + number, Path(folder))
        for line in log:
            kinds[line.split(" ", 1)[1]] = kinds.get(line.split(" ", 1)[1], 0) + 1
        told = {"schedule": number, "seed": given.seed + number, "seconds": round(seconds, 1)}
        print(json.dumps({**told, "faults": [line.split(" ", 1)[1] for line in log]}), flush=True)
    print(f"{given.schedules} schedules, each set the fault-free one; faults: {kinds}")


if __name__ == "__main__":
    main()
