"""A fine-tuning set as a fleet's work: a unit is one part of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitune.config.options import with_options
from mitune.config.sets import BuildConfig
from mitune.config.shard import Shard
from mitune.methods.set_build import SetBuild, as_begun
from mitune.models.protocol import LatentModel


@dataclass(frozen=True, kw_only=True)
class SetJob:
    """The build of a set, as it travels to the workers; a call opens it there.

    Attributes:
        load: loads the model, with its adapter on it.
        adapter: the adapter's digest, as of ``mitune.methods.build.build_set``.
        prompts: distinct texts.
        out: the set's folder, the same for all workers.
        options: fields of ``BuildConfig`` and of its parts, which override the model's preset.
    """

    load: Callable[[], LatentModel]
    adapter: str | None
    prompts: tuple[str, ...]
    out: Path
    options: dict[str, Any]

    def __call__(self) -> "SetWork":
        return SetWork(self)


class SetWork:
    """The build on a worker: the model stays loaded, and what was compiled is kept."""

    def __init__(self, job: SetJob) -> None:
        """Load the model and begin the set, or check that what is there is of the same job."""
        self._job = job
        model = job.load()
        config = with_options(BuildConfig.of(model.preset), job.options)
        self._build = SetBuild(
            model,
            job.prompts,
            as_begun(config, job.out),
            adapter=job.adapter,
        )
        with self._build.writer(job.out, locked=False) as writer:
            self.units = writer.parts
            self._pending = writer.pending_parts()

    def pending(self) -> list[int]:
        """The parts that were not there when the work was opened."""
        return self._pending

    def make(self, unit: int) -> None:
        """Build one part."""
        share = Shard(number=unit, of=self.units)
        with self._build.writer(self._job.out, share, locked=False) as writer:
            if writer.pending_prompts():
                self._build.fill(writer, finite=True)
