"""A build of a fine-tuning set, resolved: its settings, its candidates, and the shares that writers
lack."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from mitune.config.choices import ReNoising
from mitune.config.options import with_options
from mitune.config.runtime import AUTO
from mitune.config.sets import BuildConfig, GenerateConfig
from mitune.config.shard import WHOLE, Shard
from mitune.core.errors import UserError
from mitune.core.provenance import environment
from mitune.engine.candidate import Candidate
from mitune.engine.policies import Policy, Unpruned
from mitune.engine.request import EngineStats, Request
from mitune.engine.slot_count import with_slots
from mitune.engine.stream import check_run, generate, pool, whole_batches
from mitune.methods.telemetry import Telemetry
from mitune.models.protocol import LatentModel
from mitune.runtime.cuda_graphs import need_gpu
from mitune.runtime.prepared import prepare
from mitune.scorers.known import find_scorer
from mitune.scoring.pools import scored_by_renoising, scored_by_rfmi, scored_by_scorer
from mitune.scoring.rfmi import rfmi_weights
from mitune.scoring.scorer import Scorer, scorer_identity
from mitune.selection.prune import exact, for_run
from mitune.selection.recheck import check_reach, recheck
from mitune.selection.steering import Steering
from mitune.sets import SetWriter
from mitune.sets.schema import RUN, SetRecord


def as_begun(config: BuildConfig, out: Path | str) -> BuildConfig:
    """The config, with the number of slots that fitted when the set in ``out`` was begun, if it
    leaves that open."""
    if config.runtime.slots != AUTO or not (Path(out) / RUN).is_file():
        return config
    begun = SetRecord.load(Path(out)).settings.get("slots", AUTO)
    return replace(config, runtime=replace(config.runtime, slots=begun))


class SetBuild:
    """A build whose settings are resolved for a model and its prompts; it makes the whole set or,
    once and again, shares of it.

    Args:
        model, prompts, adapter, scorer: as ``mitune.methods.build.build_set``.
        config: all of it; slots "auto" are resolved here.

    Raises:
        UserError: if the prompts are not valid, the pruning does not fit the run, recheck_ties is
            given although the run has no ties to recheck, or the runtime is not available here.
    """

    def __init__(
        self,
        model: LatentModel,
        prompts: Sequence[str],
        config: BuildConfig,
        *,
        adapter: str | None = None,
        scorer: Scorer | None = None,
    ) -> None:
        check_run(prompts)
        self.model, self.prompts, self.adapter = model, prompts, adapter
        self.stats = EngineStats()
        self._steering: dict[Path, Steering] = {}
        if config.rank_by and scorer is None:
            scorer = find_scorer(config.rank_by, model)
        self.scorer = scorer
        self.schedule = model.schedule(config.sampler)
        self.weights = self.schedule.weights(config.sampler.convention, config.sampler.t_min)
        self.precision = config.runtime.precision or model.precision
        if config.prune:
            fitting = for_run(
                config.prune,
                weights=self.weights,
                precision=self.precision,
                candidates=config.candidates,
                prompts=len(prompts),
                keep=config.keep,
            )
            config = replace(config, prune=fitting)
        if config.recheck_ties is not None:
            _check_recheck(config, self.precision)
        total = len(prompts) * config.candidates
        runtime = with_slots(model, config.runtime, config.sampler, total)
        self.config = replace(config, runtime=runtime)
        if config.estimator == "rfmi":
            rfmi_weights(self.schedule, config.sampler.t_min)  # refuse before anything is drawn
        prepare(model, self.config.runtime)  # fail before a folder is created
        if self.config.runtime.cuda_graphs:
            need_gpu(model.device)

    def writer(self, out: Path | str, shard: Shard = WHOLE, *, locked: bool = True) -> SetWriter:
        """Open the set in folder ``out``; arguments and errors as of ``SetWriter``."""
        config = self.config
        return SetWriter(
            out,
            self.settings(),
            self.prompts,
            config.candidates,
            config.keep,
            config.select,
            all_latents=config.all_latents,
            environment=environment(self.model.device),
            notes={"model": self.model.name},
            shard=shard,
            locked=locked,
        )

    def fill(
        self,
        writer: SetWriter,
        progress: Callable[[int, int], None] | None = None,
        *,
        finite: bool = False,
    ) -> None:
        """Generate what the writer's share lacks, and write it; at the end of a pruned set its
        audit too.

        Args:
            writer: from ``writer``.
            progress: called with (candidates done, candidates in all), of the share.
            finite: refuse a share of which no candidate is finite, before its last one is written:
                a sign of a broken device rather than of the model.

        Raises:
            UserError: for such a share, or if a part cannot be written.
        """
        pending = set(writer.pending_prompts())
        steering = self.steering(writer.path)
        total = writer.prompts * self.config.candidates
        done = total - len(pending) * self.config.candidates
        broken = True
        with Telemetry(writer.path, self.stats, self.model.device) as telemetry:
            for candidate in self.candidates(steering, pending):
                broken = broken and not candidate.finite
                if finite and broken and done + 1 == total:
                    raise UserError(
                        f"no candidate of {writer.prompts} prompts is finite: expected numbers; "
                        "the device may be broken, or the precision too low for the model"
                    )
                writer.add(candidate)
                if candidate.prompt_index in pending:
                    done += 1
                    telemetry.candidate()
                    if progress:
                        progress(done, total)
        if writer.complete:
            steering.write_audit()

    def settings(self) -> dict[str, Any]:
        """The settings that identify the set, as plain JSON."""
        config, runtime = self.config, self.config.runtime
        found = {
            "model_fingerprint": self.model.fingerprint,
            "model_parts": self.model.parts,
            "adapter": self.adapter,
            "estimator": config.estimator,
            "draws": config.draws if config.estimator in get_args(ReNoising) else None,
            "seed": config.seed,
            "precision": self.precision,
            "backend": runtime.backend,
            "attention": runtime.attention,
            "slots": runtime.slots,
            "sampler": asdict(config.sampler),
            # Convert tuples to lists, as in the JSON with which this is compared.
            "prune": json.loads(json.dumps(asdict(config.prune))) if config.prune else None,
        }
        if self.scorer is not None:
            found["rank_by"] = scorer_identity(self.scorer)
        if config.recheck_ties is not None:
            found["settle"] = config.recheck_ties  # the field's name in sets of earlier versions
        return found

    def steering(self, folder: Path) -> Steering:
        """Decides which candidates of the set in ``folder`` go on; the same for all its shares."""
        config = self.config
        if folder not in self._steering:
            self._steering[folder] = Steering(
                config.prune,
                self.prompts,
                self.weights,
                config.keep,
                config.seed,
                folder,
                make=self._make,
                draft=self._draft,
                block=20 * config.runtime.count,
            )
        return self._steering[folder]

    def candidates(self, steering: Steering, pending: set[int]) -> Iterator[Candidate]:
        """Generate all candidates that are missing, scored as the config asks."""
        config, slots = self.config, self.config.runtime.count
        every = pool(self.prompts, config.candidates)
        finish = exact(self.weights, config.keep)
        made: Iterable[Candidate]
        if config.steered and (config.prune or not isinstance(finish, Unpruned)):
            made = steering.make([w for w in every if w.prompt_index in pending])
        else:
            made = self._make(whole_batches(every, pending, slots), None)
        if config.recheck_ties is not None:
            fewer = max(1, slots // 4)  # few candidates, and idle slots cost as much as busy ones
            made = recheck(
                made,
                lambda work: self._make(work, lambda p: finish, precision="float32", slots=fewer),
                candidates=config.candidates,
                keep=config.keep,
                reach=config.recheck_ties,
                block=slots,
            )
        if self.scorer is not None:
            return scored_by_scorer(made, self.model, self.prompts, self.scorer, slots)
        if config.estimator == "trajectory":
            return made
        if config.estimator == "rfmi":
            return scored_by_rfmi(made, self.schedule, config)
        return scored_by_renoising(made, self.model, self.prompts, self.schedule, config)

    def _make(
        self, work: list[Request], policy: Callable[[int], Policy] | None, **changes: Any
    ) -> Iterator[Candidate]:
        config = self.config
        own = GenerateConfig(
            candidates=config.candidates,
            sampler=config.sampler,
            seed=config.seed,
            runtime=config.runtime,
        )
        own = with_options(own, changes)
        return generate(
            self.model, self.prompts, own, policy=policy, requests=work, stats=self.stats
        )

    def _draft(self, work: list[Request]) -> Iterator[Candidate]:
        prune = self.config.prune
        assert prune is not None
        cheap = self.config.sampler
        cheap = replace(cheap, steps=prune.draft_steps or cheap.steps)
        weights = self.model.schedule(cheap).weights(cheap.convention, cheap.t_min)
        # A draft needs no pictures: only one candidate per pool takes the steps without weight.
        rough = exact(weights, 1)
        return self._make(work, lambda p: rough, sampler=cheap, precision=prune.draft_precision)


def _check_recheck(config: BuildConfig, precision: str) -> None:
    assert config.recheck_ties is not None
    check_reach(config.recheck_ties)
    if precision in ("float32", "float64"):
        raise UserError(
            f"recheck_ties is given and the precision {precision}: expected half precision, whose "
            "near ties float32 settles"
        )
    if config.prune or not config.steered:
        given = f"prune {config.prune.policy}" if config.prune else "another score or rule"
        raise UserError(
            f"recheck_ties is given with {given}: expected no pruning, estimator trajectory and "
            "select mi"
        )
