"""A fleet's job with made-up candidates and the real store, whose workers can be killed."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from fake_build import pool, writer

from mitune.config.shard import Shard
from mitune.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class FakeJob:
    """Builds the set of ``fake_build`` with a part for each of its 7 prompts.

    Attributes:
        out: the set's folder; beside it every worker leaves a file with its process's number.
        seconds: that a candidate takes.
        kills: units that kill their worker.
        raises: units that raise.
        broken: opening fails.
        dies: the first worker that opens the job is killed before it begins the set.
        sick: the first worker to open the job makes no unit.
    """

    out: Path
    seconds: float = 0.0
    kills: tuple[int, ...] = ()
    raises: tuple[int, ...] = ()
    broken: bool = False
    dies: bool = False
    sick: bool = False

    def __call__(self) -> "FakeWork":
        return FakeWork(self)

    @property
    def workers(self) -> Path:
        return self.out.with_name(f"{self.out.name}-workers")


class FakeWork:
    def __init__(self, job: FakeJob) -> None:
        self.job = job
        if job.broken:
            raise UserError("the model is not there")
        if job.dies and not job.workers.exists():
            job.workers.mkdir()
            os.kill(os.getpid(), signal.SIGKILL)
        self.sick = job.sick and not job.workers.exists()
        job.workers.mkdir(exist_ok=True)
        (job.workers / str(os.getpid())).touch()
        with writer(job.out, prompts_per_part=1, locked=False) as target:
            self.units = target.parts
            self.left = target.pending_parts()

    def pending(self) -> list[int]:
        return self.left

    def make(self, unit: int) -> None:
        if unit in self.job.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if unit in self.job.raises:
            raise ValueError(f"unit {unit} is poisoned")
        if self.sick:
            raise ValueError("uncorrectable memory error")
        share = Shard(number=unit, of=self.units)
        with writer(self.job.out, prompts_per_part=1, shard=share, locked=False) as target:
            for candidate in pool(target.pending_prompts()):
                time.sleep(self.job.seconds)
                target.add(candidate)
