"""The verbs of the command line: each a dataclass whose fields are its options and whose ``run``
does the work."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from tyro.conf import Positional

from mitune import doctor, progress
from mitune.align import align
from mitune.build import build_set
from mitune.errors import UserError
from mitune.evaluation.report import compare_adapter
from mitune.families.stable_diffusion import StableDiffusion
from mitune.images import read_images
from mitune.options import Common, Pool, Tuning
from mitune.prompts import read_prompts
from mitune.report.picture import best_and_worst
from mitune.score import score
from mitune.sets import FineTuningSet
from mitune.shapes.prompts import prompts as shapes_prompts
from mitune.tuning import adapter, tune
from mitune.tuning.adapter_file import digest


class Command(Protocol):
    """What ``mitune.cli`` runs."""

    @property
    def json(self) -> bool:
        """Whether programs listen too."""
        ...

    def run(self) -> dict[str, Any]:
        """Do it, tell people on stdout, and return the same for programs, as plain JSON."""
        ...


@dataclass(frozen=True, kw_only=True)
class Align(Common, Pool, Tuning):
    """Align a model with itself: rounds of build, select and tune; then compare base and tuned.

    Leaves OUT/round-R/adapter (load it with diffusers' load_lora_weights), OUT/eval.json, and the
    pictures OUT/eval.png and OUT/ranking.png. The same command after an interruption goes on.
    """

    out: Path
    """Folder of the run."""
    rounds: int = 1
    """Rounds R; each starts from the last one's adapter."""
    eval_prompts: Path | None = None
    """Held-out prompts for the comparison. None: the shapes world's test list, or for other models
    no comparison."""
    images: int = 4
    """Pictures of each prompt in the comparison."""

    def run(self) -> dict[str, Any]:
        prompts = _prompts(self, self.prompts, "train")[: self.limit]
        held_out = _held_out(self.model, self.eval_prompts)
        model = self.load()
        _warn_long(model, prompts)
        with progress.bars(self.quiet) as bars:
            done = align(
                model,
                prompts,
                self.out,
                rounds=self.rounds,
                tuning=self.config(model.preset.tuning, self.seed),
                on_candidate=bars.candidate,
                on_step=bars.step,
                **self.pool(model.preset),
            )
        last = done[-1]
        adapter.detach(model.unet)
        # The first round's pools are the plain model's, which is what is left to draw them again.
        sampler = self.sampler(model.preset.sampler)
        best_and_worst(model, done[0].set, sampler, self.out / "ranking.png")
        result: dict[str, Any] = {
            "adapter": str(last.adapter),
            "sets": [r.set.summary() for r in done],
        }
        for number, summary in enumerate(result["sets"], 1):
            _tell_set(summary, f"round {number}: ")
        if held_out:
            result["eval"] = compare_adapter(
                model,
                last.adapter,
                held_out,
                out=self.out,
                images=self.images,
                seeds=[self.seed + 1_000_000],
                slots=self.slots,
            )
        print(f"adapter: {last.adapter}")
        return result


@dataclass(frozen=True, kw_only=True)
class Build(Common, Pool):
    """Build a fine-tuning set: generate each prompt's pool, score it by mutual information, keep
    the best."""

    out: Path
    """Folder of the set (Parquet); the same command after an interruption goes on."""
    adapter: Path | None = None
    """A LoRA or DoRA on the model that generates."""

    def run(self) -> dict[str, Any]:
        prompts = _prompts(self, self.prompts, "train")[: self.limit]
        model = self.load(self.adapter)
        _warn_long(model, prompts)
        with progress.bars(self.quiet) as bars:
            built = build_set(
                model,
                prompts,
                self.out,
                adapter=None if self.adapter is None else digest(self.adapter),
                progress=lambda done, total: bars.candidate(1, done, total),
                **self.pool(model.preset),
            )
        summary = built.summary()
        _tell_set(summary)
        return summary


@dataclass(frozen=True, kw_only=True)
class Tune(Common, Tuning):
    """Train a DoRA or LoRA adapter on a fine-tuning set; it resumes, and diffusers'
    load_lora_weights reads it."""

    set: Path
    """Folder that `mitune build` made."""
    out: Path
    """Folder of the adapter."""
    start: Path | None = None
    """Adapter to go on from."""
    seed: int = 0
    """Keys the adapter's start, the batches, the noise and the timesteps."""

    def run(self) -> dict[str, Any]:
        fine_tuning_set = FineTuningSet.open(self.set)
        if not fine_tuning_set.complete:
            raise UserError(
                f"set {self.set} is not complete: run the 'mitune build' that began it again"
            )
        model = self.load()
        built_with = fine_tuning_set.settings.get("model_fingerprint")
        if built_with != model.fingerprint:
            raise UserError(
                f"set {self.set} was built with another model "
                f"({fine_tuning_set.settings.get('model')}): expected one "
                f"of {self.model}; give that model, or build a set with this one"
            )
        with progress.bars(self.quiet) as bars:
            path = tune(
                model,
                fine_tuning_set,
                self.out,
                self.config(model.preset.tuning, self.seed),
                adapter=self.start,
                progress=lambda step, total, loss: bars.step(1, step, total, loss),
            )
        print(f"adapter: {path}")
        return {"adapter": str(path)}


@dataclass(frozen=True, kw_only=True)
class Score(Common):
    """Point-wise mutual information of given pictures with prompts, in nats, by re-noising."""

    images: Positional[list[Path]]
    """PNG or JPEG files; each is resized to the model's picture size."""
    prompt: list[str]
    """One prompt for all pictures, or one for each."""
    adapter: Path | None = None
    """A LoRA or DoRA on the model that scores."""
    estimator: str = "orthogonal"
    """orthogonal (Eq. 2) or standard (Kong et al. 2024: the exact point-wise log-ratio on average;
    can be negative)."""
    draws: int = 64
    """Draws of (t, noise) for each picture; more is steadier."""
    seed: int = 0
    """Keys the draws."""
    convention: str = "paper"
    """Weights: paper or reference."""
    t_min: int | None = None
    """Only t > t_min counts."""

    def run(self) -> dict[str, Any]:
        if len(self.prompt) not in (1, len(self.images)):
            raise UserError(
                f"{len(self.prompt)} prompts for {len(self.images)} pictures: expected one for "
                "all, or one for each"
            )
        prompts = self.prompt * len(self.images) if len(self.prompt) == 1 else self.prompt
        model = self.load(self.adapter)
        _warn_long(model, prompts)
        pictures = read_images(self.images, model.picture_size)
        values = score(
            model,
            prompts,
            pictures,
            estimator=self.estimator,
            draws=self.draws,
            seed=self.seed,
            convention=self.convention,
            t_min=self.t_min,
        ).tolist()
        rows = [
            {"image": str(image), "prompt": prompt, "mi_nats": value}
            for image, prompt, value in zip(self.images, prompts, values, strict=True)
        ]
        for row in rows:
            print(f"{row['mi_nats']:10.3f} nats  {row['image']}  {row['prompt']}")
        return {"estimator": self.estimator, "draws": self.draws, "scores": rows}


@dataclass(frozen=True, kw_only=True)
class Eval(Common):
    """Compare base and adapter on the same prompts and the same noise, with standard errors."""

    adapter: Path
    """The LoRA or DoRA to compare with its base."""
    prompts: Path | None = None
    """Text file of held-out prompts. None: the shapes world's test list."""
    limit: int | None = None
    """Only the first so many prompts."""
    images: int = 4
    """Pictures of each prompt and seed."""
    seeds: int = 1
    """Seeds of the noise."""
    seed: int = 1_000_000
    """The first of them; far from a set's seeds, so that no noise is shared with it."""
    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """Guidance at which both are used."""
    slots: int = 64
    """Pictures in flight."""
    out: Path | None = None
    """Folder for eval.json and eval.png."""

    def run(self) -> dict[str, Any]:
        prompts = _prompts(self, self.prompts, "test")[: self.limit]
        model = self.load()
        _warn_long(model, prompts)
        return compare_adapter(
            model,
            self.adapter,
            prompts,
            out=self.out,
            images=self.images,
            seeds=list(range(self.seed, self.seed + self.seeds)),
            slots=self.slots,
            steps=self.steps,
            guidance=self.guidance,
        )


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Devices, versions, which implementations are active, and why the others are not."""

    json: bool = False
    """Print one JSON object as the last line of stdout."""

    def run(self) -> dict[str, Any]:
        report = doctor.examine()
        print(doctor.tell(report))
        return report


COMMANDS: dict[str, Callable[..., Command]] = {
    "align": Align,
    "build": Build,
    "tune": Tune,
    "score": Score,
    "eval": Eval,
    "doctor": Doctor,
}


def _prompts(command: Any, path: Path | None, split: Literal["train", "test"]) -> list[str]:
    """The prompts a command works on, before ``limit``."""
    if command.limit is not None and command.limit < 1:
        raise UserError(f"limit is {command.limit}: expected at least 1 prompt")
    if path is not None:
        return read_prompts(path)
    if command.model != "shapes":
        raise UserError(
            "no prompts: give --prompts FILE, one prompt a line (only the shapes model has its own "
            "list)"
        )
    return shapes_prompts(split)


def _held_out(model: str, path: Path | None) -> list[str]:
    if path is not None:
        return read_prompts(path)
    return shapes_prompts("test") if model == "shapes" else []


def _warn_long(model: StableDiffusion, prompts: list[str]) -> None:
    for prompt in model.too_long(prompts):
        progress.warn(f"prompt is cut to {model.tokenizer.model_max_length} tokens: {prompt}")


def _tell_set(summary: dict[str, Any], prefix: str = "") -> None:
    means = [summary["score_mean_kept"], summary["score_mean_all"]]
    kept, everyone = ("none" if m is None else f"{m:.2f}" for m in means)
    print(
        f"{prefix}set {summary['path']}: {summary['candidates']} candidates of "
        f"{summary['finished_prompts']} prompts, "
        f"{summary['kept']} kept; mean score {kept} nats kept, {everyone} all; "
        f"{summary['non_finite']} non-finite"
    )
