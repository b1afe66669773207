"""Jobs on a Ray cluster of this machine: the set is the one that one process builds, whatever
dies."""

import contextlib
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_build import pool, tree, writer
from fake_job import FakeJob

from mitune.core.errors import UserError
from mitune.fleet.events import FILE, Events
from mitune.fleet.on_ray import Cluster, run
from mitune.fleet.units import Units

ray = pytest.importorskip("ray")
WORKERS = Cluster(address="auto", workers=2)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two cores; workers find the modules of the tests."""
    # Workers of Ray give way to every other process, and so would wait for other tests.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    path = os.pathsep.join(p for p in sys.path if "tests" in p)
    env = {"PYTHONPATH": path + os.pathsep + os.environ.get("PYTHONPATH", "")}
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": env},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The set of one process."""
    out = tmp_path_factory.mktemp("whole") / "set"
    with writer(out, prompts_per_part=1) as target:
        for candidate in pool():
            target.add(candidate)
    return parts(out)


def parts(folder: Path) -> dict[str, bytes]:
    found = tree(folder)
    return {n: b for n, b in found.items() if not n.startswith((".lock", FILE))}


def build(job: FakeJob, tries: int = 3) -> Units:
    return run(job, WORKERS, tries=tries, events=Events(job.out))


def events(job: FakeJob) -> list[dict]:
    return [json.loads(line) for line in (job.out / FILE).read_text().splitlines()]


def test_the_set_is_the_one_process_set(cluster, whole, tmp_path: Path) -> None:
    job = FakeJob(out=tmp_path / "set")
    seen: list[tuple[int, int]] = []
    done = run(job, WORKERS, events=Events(job.out), progress=lambda *a: seen.append(a))
    assert (done.done, done.aside) == (7, {})
    assert seen == [(i, 7) for i in range(1, 8)]
    assert parts(job.out) == whole
    assert {e["event"] for e in events(job)} == {"joined", "given", "made"}
    assert build(job).done == 0  # nothing is left to do


def test_workers_are_killed_at_random(cluster, whole, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    job = FakeJob(out=tmp_path / "set", seconds=0.2)
    ended = threading.Event()

    def kill() -> None:
        for _ in range(3):
            if ended.wait(chance.uniform(0.5, 3.0)):
                return
            living = [int(path.name) for path in job.workers.glob("*")]
            if living:
                victim = chance.choice(living)
                (job.workers / str(victim)).unlink()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        done = build(job, tries=10)
    finally:
        ended.set()
        killer.join()
    assert done.aside == {}, f"seed {seed}"
    assert {n: b for n, b in parts(job.out).items() if not n.endswith(".tmp")} == whole


def test_poisoned_units_are_put_aside_and_the_others_made(cluster, whole, tmp_path: Path) -> None:
    job = FakeJob(out=tmp_path / "set", kills=(1,), raises=(4,))
    done = build(job, tries=2)
    assert sorted(done.aside) == [1, 4]
    assert "unit 4 is poisoned" in done.aside[4]
    assert done.done == 5
    told = events(job)
    assert sum(e["event"] == "lost" and e["unit"] == 1 for e in told) == 2
    assert sum(e["event"] == "failed" and e["unit"] == 4 for e in told) == 2
    # Mended, the same job makes what is missing.
    assert build(replace(job, kills=(), raises=())).done == 2
    assert {n: b for n, b in parts(job.out).items() if not n.endswith(".tmp")} == whole


def test_a_worker_that_fails_where_others_do_not_gets_no_more_units(
    cluster, whole, tmp_path: Path
) -> None:
    job = FakeJob(out=tmp_path / "set", sick=True, seconds=0.1)
    done = build(job, tries=5)
    assert (done.done, done.aside) == (7, {})
    assert parts(job.out) == whole
    told = events(job)
    (retired,) = [e for e in told if e["event"] == "retired"]
    assert retired["failures"] >= 3
    after = told[told.index(retired) :]
    assert not any(e["event"] == "given" and e["worker"] == retired["worker"] for e in after)


def test_a_worker_that_dies_before_it_has_begun_the_set(cluster, whole, tmp_path: Path) -> None:
    job = FakeJob(out=tmp_path / "set", dies=True)
    assert build(job).done == 7
    assert parts(job.out) == whole
    assert events(job)[0]["event"] == "lost"


def test_two_drivers_at_once(cluster, whole, tmp_path: Path) -> None:
    job = FakeJob(out=tmp_path / "set", seconds=0.05)
    results: list[Units] = []

    def drive() -> None:
        results.append(build(job))  # the first worker of each takes one of the two cores

    drivers = [threading.Thread(target=drive) for _ in range(2)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert [r.aside for r in results] == [{}, {}]
    assert parts(job.out) == whole


def test_work_that_cannot_be_opened_is_the_users_error(cluster, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^the model is not there$"):
        build(FakeJob(out=tmp_path / "set", broken=True))


def test_another_set_in_the_folder_is_refused(cluster, tmp_path: Path) -> None:
    job = FakeJob(out=tmp_path / "set")
    with writer(job.out, prompts_per_part=1, keep=1):
        pass
    with pytest.raises(UserError, match="built otherwise: keep is 1 there and 2 here"):
        build(job)
