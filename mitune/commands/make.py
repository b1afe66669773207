"""The verbs that make something: align, build, tune."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitune import progress
from mitune.align import align
from mitune.build import build_set
from mitune.commands.given import given_prompts, held_out_prompts, warn_long
from mitune.errors import UserError
from mitune.evaluation.report import compare_adapter
from mitune.options import Common, Pool, Tuning
from mitune.report.picture import best_and_worst
from mitune.sets import FineTuningSet
from mitune.steering import tell_audit
from mitune.tuning import adapter, tune
from mitune.tuning.adapter_file import digest
from mitune.tuning.processes import rank


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
        prompts = given_prompts(self, self.prompts, "train")[: self.limit]
        held_out = held_out_prompts(self.model, self.eval_prompts)
        model = self.load()
        warn_long(model, prompts)
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
        for number, (made, summary) in enumerate(zip(done, result["sets"], strict=True), 1):
            _tell_set(summary, f"round {number}: ")
            if (found := made.set.audit()) is not None:
                print(f"round {number}: {tell_audit(found)}")
                summary["audit"] = found
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
        prompts = given_prompts(self, self.prompts, "train")[: self.limit]
        model = self.load(self.adapter)
        warn_long(model, prompts)
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
        if (found := built.audit()) is not None:
            print(tell_audit(found))
            summary["audit"] = found
        return summary


@dataclass(frozen=True, kw_only=True)
class Tune(Common, Tuning):
    """Train a DoRA or LoRA adapter on a fine-tuning set; it resumes, and diffusers'
    load_lora_weights reads it.

    On several GPUs: torchrun --nproc-per-node N -m mitune.cli tune ..."""

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
        first = rank() == 0
        with progress.bars(self.quiet or not first) as bars:
            path = tune(
                model,
                fine_tuning_set,
                self.out,
                self.config(model.preset.tuning, self.seed),
                adapter=self.start,
                progress=lambda step, total, loss: bars.step(1, step, total, loss),
            )
        if first:
            print(f"adapter: {path}")
        return {"adapter": str(path)}


def _tell_set(summary: dict[str, Any], prefix: str = "") -> None:
    means = [summary["score_mean_kept"], summary["score_mean_all"]]
    kept, everyone = ("none" if m is None else f"{m:.2f}" for m in means)
    print(
        f"{prefix}set {summary['path']}: {summary['candidates']} candidates of "
        f"{summary['finished_prompts']} prompts, "
        f"{summary['kept']} kept; mean score {kept} nats kept, {everyone} all; "
        f"{summary['pruned']} pruned, {summary['non_finite']} non-finite"
    )
