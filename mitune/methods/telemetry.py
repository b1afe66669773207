"""What a process that builds a set leaves about itself: rates, occupancy, sensors."""

import itertools
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from mitune.engine.request import EngineStats
from mitune.runtime.gpu_sensors import read_sensors

FOLDER = "metrics"
_SHARES = itertools.count(1)


class Telemetry:
    """Appends a line of JSON to ``SET/metrics/HOST-PID.jsonl`` every ``every`` seconds, and one at
    the end.

    Each line has the time (UTC), the number of the share among those that the process made, seconds
    since that share's start, its candidates done, candidates a second
    since the line before, the occupancy of the slots so far, the processor cores that the process
    kept busy since the line before, its peak memory in bytes, and what the GPU's sensors say
    (``mitune.runtime.gpu_sensors``).

    Args:
        folder: of the set.
        stats: of the engine, which counts on.
        device: whose sensors are read.
        every: seconds between two lines.
        clock: seconds.
    """

    def __init__(
        self,
        folder: Path,
        stats: EngineStats,
        device: torch.device,
        *,
        every: float = 30.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._path = folder / FOLDER / f"{platform.node()}-{os.getpid()}.jsonl"
        self._stats, self._device, self._share = stats, device, next(_SHARES)
        self._every, self._clock = every, clock
        self._start = self._told = clock()
        self._cpu = time.process_time()
        self._done = self._told_done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._done > self._told_done:
            self._write(self._clock())

    def candidate(self) -> None:
        """One more candidate is done."""
        self._done += 1
        now = self._clock()
        if now - self._told >= self._every:
            self._write(now)

    def _write(self, now: float) -> None:
        seconds, cpu = max(now - self._told, 1e-9), time.process_time()
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "share": self._share,
            "seconds": round(now - self._start, 3),
            "candidates": self._done,
            "candidates_per_s": round((self._done - self._told_done) / seconds, 4),
            "occupancy": round(self._stats.occupancy, 4) if self._stats.seats else None,
            "cpu_cores": round((cpu - self._cpu) / seconds, 3),
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            **read_sensors(self._device),
        }
        self._told, self._told_done, self._cpu = now, self._done, cpu
        # A run does not end because it cannot say how it goes; what it makes has its own errors.
        with suppress(OSError):
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def told(folder: Path) -> list[list[dict[str, Any]]]:
    """The lines that the processes which built the set in ``folder`` left, a list for each; a line
    that a killed process left half is left out."""
    found = []
    for path in sorted((folder / FOLDER).glob("*.jsonl")):
        lines = []
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                lines.append(json.loads(text))
        found.append([line for line in lines if isinstance(line, dict)])
    return [lines for lines in found if lines]


def cost_of(folder: Path) -> dict[str, Any]:
    """What the building of the set in ``folder`` cost, all processes together, as plain JSON:
    device hours, candidates a second of one device, mean occupancy, energy of the GPUs in kWh and
    the most memory of a process in MB, as far as they are known; empty if nothing is."""
    processes = told(folder)
    ends = [line for lines in processes for line in _ends(lines)]
    seconds = sum(float(line["seconds"]) for line in ends)
    if seconds <= 0:
        return {}
    every = [line for lines in processes for line in lines]
    candidates = sum(int(line["candidates"]) for line in ends)
    occupied = [
        (float(line["occupancy"]), int(line["candidates"]))
        for line in ends
        if line.get("occupancy") is not None
    ]
    found: dict[str, Any] = {
        "processes": len(processes),
        "device_hours": seconds / 3600,
        "candidates_per_s": candidates / seconds,
        "peak_megabytes": max(int(line.get("peak_bytes", 0)) for line in every) // 1_000_000,
    }
    if occupied:
        weight = sum(count for _, count in occupied)
        found["occupancy"] = sum(share * count for share, count in occupied) / weight
    watts = [float(line["watts"]) for line in every if "watts" in line]
    if watts:
        found["kilowatt_hours"] = sum(watts) / len(watts) * seconds / 3.6e6
    return found


def _ends(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last line of each share that a process made."""
    return list({line["share"]: line for line in lines}.values())
