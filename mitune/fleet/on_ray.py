"""Run a fleet's work on a Ray cluster: which cluster, and how many workers it has room for."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mitune.core.errors import UserError
from mitune.fleet.driver import Driver, Staff
from mitune.fleet.events import Events
from mitune.fleet.units import Units
from mitune.fleet.work import Work


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where a fleet's workers run.

    Attributes:
        address: "local" starts a cluster on this machine; "auto" or HOST:PORT joins one.
        workers: at most so many; None: one for each GPU, or without GPUs one for each machine.
    """

    address: str = "local"
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UserError(f"workers is {self.workers}: expected at least 1")


def run(
    job: Callable[[], Work],
    cluster: Cluster,
    *,
    tries: int = 3,
    events: Events,
    progress: Callable[[int, int], None] | None = None,
) -> Units:
    """Make all units of a job that are missing.

    Args:
        job: opens the work on a worker.
        cluster: where.
        tries: how often a unit may fail before it is put aside.
        events: told what happens.
        progress: called with (units made or put aside, units in all).

    Returns:
        The bookkeeping, whose ``aside`` holds the units that failed too often, with their errors.

    Raises:
        UserError: there is no Ray or no cluster, the work cannot be opened (its own UserError), or
            workers fail and fail and nothing is made.
    """
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        _join(ray, cluster.address)
    try:
        staff = partial(_staff, ray, cluster.workers)
        return Driver(ray, job, staff, tries=tries, events=events, progress=progress).run()
    finally:
        if started:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"--ray needs the package ray ({error}): pip install 'mitune[fleet]', or build shares "
            "with --shard"
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    return ray


def _join(ray: Any, address: str) -> None:
    _check_listening(address)
    options = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, logging_level="ERROR", log_to_driver=False, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"there is no Ray cluster at {address} ({str(error).splitlines()[0]}): expected local, "
            "auto, or HOST:PORT of one that runs"
        ) from error


def _check_listening(address: str) -> None:
    """Refuse an address where nobody listens at once; Ray would try for more than a minute."""
    host, colon, port = address.rpartition(":")
    if address in ("local", "auto") or "://" in address:
        return
    if not colon or not port.isdecimal():
        raise UserError(f"--ray is {address}: expected local, auto or HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"there is no Ray cluster at {address} ({error}): expected local, auto, or HOST:PORT "
            "of one that runs"
        ) from error


def _staff(ray: Any, most: int | None) -> Staff:
    """How many workers the cluster has room for now, and what each takes of it."""
    has = ray.cluster_resources()
    gpus, cores = int(has.get("GPU", 0)), max(1, int(has.get("CPU", 0)))
    if gpus:
        return min(most or gpus, gpus), {"num_gpus": 1, "num_cpus": 1}
    machines = sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU"))
    workers = min(most or max(1, machines), cores)
    return workers, {"num_cpus": cores // workers}
