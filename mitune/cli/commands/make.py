"""The verbs that make something: align, build, real, tune."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from mitune.arguments.fields import Former, stands_for
from mitune.cli.commands.given import given_prompts, held_out_prompts, warn_long, whole_set
from mitune.cli.commands.repeat import running
from mitune.cli.commands.watching import Watching
from mitune.cli.defaults import of_preset
from mitune.cli.options.configured import configured, given
from mitune.cli.options.model import Common, Running
from mitune.cli.options.sampling import Pool
from mitune.cli.options.training import Tuning
from mitune.config.align import AlignConfig
from mitune.config.choices import Convention, ReNoising, TrainingBackend
from mitune.config.runtime import Runtime
from mitune.config.sets import BuildConfig, RealConfig
from mitune.core import progress


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
    eval_prompts: Annotated[
        Path | None,
        stands_for("the shapes world's test list; no comparison for other models"),
    ] = None
    """Text file of held-out prompts for the comparison."""
    images: int = 4
    """Pictures of each prompt in the comparison."""

    def run(self) -> dict[str, Any]:
        from mitune.adapters import adapter
        from mitune.evaluation.pictures import best_and_worst
        from mitune.evaluation.report import compare_adapter
        from mitune.methods.align import align
        from mitune.selection.steering import tell_audit

        prompts = given_prompts(self, self.prompts, "train")[: self.limit]
        held_out = held_out_prompts(self.model, self.eval_prompts)
        model = self.load()
        own = AlignConfig.of(model.preset)
        options = given(self, own, prune=self.pruning())
        config = own.having(**options)
        warn_long(model, prompts)
        with running(self, self.out, self.quiet) as bars:
            done = align(
                model, prompts, self.out, config, on_candidate=bars.candidate, on_step=bars.step
            )
        last = done[-1]
        adapter.detach(model)
        # The first round's pools are the plain model's, which is what is left to draw them again.
        sampler = config.build.sampler
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
                runtime=replace(config.build.runtime, precision=None),
            )
        print(f"adapter: {last.adapter}")
        return result


@dataclass(frozen=True, kw_only=True)
class Build(Common, Pool):
    """Build a fine-tuning set: generate each prompt's pool, score it by mutual information, keep
    the best."""

    out: Path
    """Folder of the set (Parquet); the same command after an interruption goes on."""
    adapter: Annotated[Path | None, stands_for("none")] = None
    """A LoRA or DoRA on the model that generates."""

    def run(self) -> dict[str, Any]:
        from mitune.adapters.adapter_file import digest
        from mitune.methods.build import build_set
        from mitune.selection.steering import tell_audit

        prompts = given_prompts(self, self.prompts, "train")[: self.limit]
        model = self.load(self.adapter)
        warn_long(model, prompts)
        with running(self, self.out, self.quiet) as bars:
            built = build_set(
                model,
                prompts,
                self.out,
                configured(self, BuildConfig.of(model.preset), prune=self.pruning()),
                adapter=None if self.adapter is None else digest(self.adapter),
                progress=lambda done, total: bars.candidate(1, done, total),
            )
        summary = built.summary()
        _tell_set(summary)
        if (found := built.audit()) is not None:
            print(tell_audit(found))
            summary["audit"] = found
        return summary


@dataclass(frozen=True, kw_only=True)
class Real(Common, Running):
    """Make a set of real captioned pictures, scored by mutual information, for `mitune tune
    --real`."""

    source: str
    """A folder of pictures, each with a .txt of its name or listed in metadata.jsonl; WebDataset
    shards, such as 'shards/*.tar'; or, with the package datasets, a data set's name."""
    out: Path
    """Folder of the set (Parquet); the same command after an interruption goes on."""
    limit: Annotated[int | None, stands_for("all")] = None
    """Only the first so many pictures."""
    keep: int = 1
    """How many pictures of one caption are kept, the best first."""
    estimator: Annotated[ReNoising | None, of_preset("estimator", trajectory="orthogonal")] = None
    """What scores a picture, by re-noising: orthogonal (Eq. 2) or standard (Kong et al. 2024)."""
    draws: Annotated[int | None, of_preset("draws")] = None
    """Draws of (t, noise) for each picture; more is steadier."""
    convention: Annotated[Convention | None, of_preset("sampler.convention")] = None
    """Weights of the score: paper (Eq. 2) or reference (the authors' code)."""
    t_min: Annotated[int | float | None, of_preset("sampler.t_min")] = None
    """Only t > t_min counts for the score; none: the convention's own."""
    seed: int = 0
    """Keys the draws of the score."""
    batch: int = 64
    """Re-noised copies in one call of the model: changes speed and memory, not results."""

    def run(self) -> dict[str, Any]:
        from mitune.methods.real import build_real_set

        model = self.load()
        with running(self, self.out, self.quiet) as bars:
            built = build_real_set(
                model,
                self.source,
                self.out,
                configured(self, RealConfig.of(model.preset)),
                progress=lambda done, total: bars.candidate(1, done, total),
            )
        # In one line: captions of the web are often long, and there are many.
        if cut := model.too_long(built.prompts):
            progress.warn(
                f"{len(cut)} of {len(built.prompts)} captions are cut to "
                f"{model.prompt_limit} tokens, such as: {cut[0]}"
            )
        summary = built.summary()
        _tell_set(summary)
        return summary


@dataclass(frozen=True, kw_only=True)
class Tune(Common, Tuning, Watching):
    """Train a DoRA or LoRA adapter on a fine-tuning set; it resumes, and diffusers'
    load_lora_weights reads it.

    On several GPUs: torchrun --nproc-per-node N -m mitune.cli tune ..."""

    set: Path
    """Folder that `mitune build` made."""
    out: Path
    """Folder of the adapter."""
    start: Annotated[Path | None, stands_for("a new adapter")] = None
    """Adapter to go on from."""
    real: Annotated[Path | None, stands_for("none")] = None
    """Folder that `mitune real` made: its best join the pairs of --set."""
    real_share: float = 0.0
    """Share of all pairs that is real; the paper tries 0.25, 0.5 and 0.9."""
    backend: Annotated[TrainingBackend | None, of_preset("tuning.backend")] = None
    """What runs the denoiser of the merged gradient; inductor compiles for some minutes first and
    keeps that for later runs."""
    cuda_graphs: Annotated[bool, Former("captured")] = False
    """Hold a micro-batch in a CUDA graph; on a GPU only. The same result."""
    prior: Annotated[Path | None, stands_for("none")] = None
    """Folder that `mitune build --select random` made: pairs on which the model is to stay as it is
    (DreamBooth's prior preservation). Every step takes a batch of them too."""
    prior_weight: Annotated[float | None, stands_for("1 with --prior")] = None
    """Weight of the loss on the pairs of --prior."""
    seed: int = 0
    """Keys the adapter's start, the batches, the noise and the timesteps."""

    def run(self) -> dict[str, Any]:
        from mitune.training.loop import tune
        from mitune.training.processes import rank

        model = self.load()
        weight = 1.0 if self.prior and self.prior_weight is None else self.prior_weight
        preset = model.preset.tuning
        config = configured(self, preset, prior_weight=weight)
        watch = self.watch(model, self.seed, Runtime(backend=config.backend, slots=16))
        first = rank() == 0
        with running(self, self.out, self.quiet, first) as bars:
            path = tune(
                model,
                whole_set(self.set, model),
                self.out,
                config,
                adapter=self.start,
                real=None if self.real is None else whole_set(self.real, model),
                prior=None if self.prior is None else whole_set(self.prior, model),
                watch=watch,
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
