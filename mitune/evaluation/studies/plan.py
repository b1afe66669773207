"""The size of a study, and the model that it is about."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mitune.config.choices import Precision, TrainingBackend, check_choice
from mitune.config.runtime import Runtime
from mitune.config.sampling import SamplerConfig
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.load import pick_device
from mitune.models.protocol import LatentModel
from mitune.worlds.known import WORLDS
from mitune.worlds.world import Split, World


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The size of a study.

    Attributes:
        out: its folder.
        work: of pools, adapters and judged pictures; studies with one folder share what is equal.
            None: ``out``.
        world: name of an embedded world.
        folder: of another training of the world's model; None: the shipped one.
        seeds: independent repetitions; pools, adapters and test pictures all differ.
        prompts, test_prompts: of each category, for training and held out.
        unseen: prompts with something that pre-training never showed, instead of those without.
        images: test pictures for each prompt, model and seed.
        candidates: M of each pool.
        keep: how many of each pool are kept; None: the preset's.
        steps: of sampling; None: the preset's.
        guidance: of the pools; None: the preset's.
        use_guidance: of the comparison; None: the preset's.
        iterations: optimizer steps of each tuning; None: the preset's.
        backend: what runs the denoiser, in pools, scores, trainings and test pictures; methods that
            act while a picture is sampled run eagerly. Changes results by rounding alone.
        precision: of the denoiser.
        processes: seeds that run at the same time; None: ``mitune.evaluation.seeds.processes``.
        quiet: no lines about what is being done.
    """

    out: Path
    work: Path | None = None
    world: str = "shapes"
    folder: Path | None = None
    seeds: int = 3
    prompts: int = 8
    test_prompts: int = 8
    unseen: bool = False
    images: int = 8
    candidates: int = 32
    keep: int | None = None
    steps: int | None = None
    guidance: float | None = None
    use_guidance: float | None = None
    iterations: int | None = None
    backend: TrainingBackend = "eager"
    precision: Precision = "float32"
    processes: int | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.world not in WORLDS:
            raise UserError(
                f"world {self.world!r} is not known: choose one of {', '.join(WORLDS)}, as a study "
                "needs an oracle"
            )
        check_choice("backend", self.backend, TrainingBackend)
        check_choice("precision", self.precision, Precision)
        for name in ("seeds", "prompts", "test_prompts", "images", "candidates"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: expected at least 1")
        if self.keep is not None and not 1 <= self.keep <= self.candidates:
            raise UserError(f"keep is {self.keep}: expected 1 to {self.candidates}, the candidates")

    def seed_folder(self, seed: int) -> Path:
        """Where a seed's pools, adapters and judged pictures lie."""
        return (self.work or self.out) / f"seed-{seed}"

    @property
    def of(self) -> World:
        """The world."""
        return WORLDS[self.world]

    def load(self, device: torch.device | None = None) -> LatentModel:
        """The model."""
        where = device or pick_device(None)
        return self.of.load(device=where, precision=self.precision, folder=self.folder)

    def texts(self, split: Split) -> dict[str, str]:
        """The prompts of a split, with their categories."""
        count = self.prompts if split == "train" else self.test_prompts
        return self.of.first_prompts(split, count, unseen=self.unseen)

    def sampler(self, guidance: float) -> SamplerConfig:
        """The preset's sampler at a guidance."""
        own = self.of.preset.sampler
        return replace(own, guidance=guidance, steps=self.steps or own.steps)

    @property
    def pool_guidance(self) -> float:
        """Of the pools."""
        own = self.of.preset.sampler.guidance
        return own if self.guidance is None else self.guidance

    @property
    def compared_at(self) -> float:
        """The guidance of the comparison."""
        own = self.of.preset.use_guidance
        return own if self.use_guidance is None else self.use_guidance

    @property
    def tuning(self) -> TuneConfig:
        """The preset's."""
        own = replace(self.of.preset.tuning, backend=self.backend)
        return own if self.iterations is None else replace(own, iterations=self.iterations)

    @property
    def runtime(self) -> Runtime:
        """How the denoiser is run, in the model's own precision."""
        return Runtime(backend=self.backend)
