"""Tune as an arm does: choose from the pools, train, and go on for its rounds. Nothing here reads
an oracle."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mitune.adapters import adapter as adapters
from mitune.adapters.adapter_file import digest
from mitune.config.runtime import Runtime
from mitune.config.sets import RealConfig
from mitune.core.errors import UserError
from mitune.evaluation.rules import Rests
from mitune.evaluation.studies.arm import Arm
from mitune.evaluation.studies.choice import Chosen, choose
from mitune.evaluation.studies.pools import PoolPlan, Pools, stored_pools
from mitune.models.protocol import LatentModel
from mitune.scoring.score import score
from mitune.training.loop import tune

_DRAWINGS = 4
"""Of each prompt that an arm is first tuned on."""


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where arms of one seed are tuned.

    Attributes:
        model: without an adapter; it has none afterwards either.
        folder: of the seed.
        seed: keys everything.
        prompts: of the pools, with their categories.
        rests: reads a prompt's phrases.
        drawings: the world's own pictures of a prompt, ``(prompt, count, seed) -> [count, 3, h,
            w]``.
        runtime: how the denoiser is run for pools and scores.
        progress: called with what is being done, and how far: (text, done, of).
    """

    model: LatentModel
    folder: Path
    seed: int
    prompts: Mapping[str, str]
    rests: Rests
    drawings: Callable[[str, int, int], Tensor]
    runtime: Runtime
    progress: Callable[[str, int, int], None]

    def pools(self, path: Path, plan: PoolPlan, adapter: Path | None = None) -> Pools:
        """Pools in the file ``path``; with an adapter, those of the model with it."""
        if adapter is not None:
            adapters.load(self.model, adapter, fingerprint=self.model.fingerprint)
        try:
            return stored_pools(
                path,
                self.model,
                list(self.prompts),
                self.rests,
                plan,
                adapter=None if adapter is None else digest(adapter),
                runtime=self.runtime,
                progress=lambda done, of: self.progress(f"{path.stem}: candidates", done, of),
            )
        finally:
            if adapter is not None:
                adapters.detach(self.model)

    def tuned(self, arm: Arm, first: Pools, plan: PoolPlan) -> list[Path]:
        """The adapters that ``arm.names`` names.

        Args:
            arm: how to tune.
            first: the base model's pools, at the arm's guidance.
            plan: of these pools; those of a model that was tuned before differ from it in seed,
                candidates and rules.
        """
        previous = None if arm.shown is None else self._shown(arm, arm.shown)
        if previous is not None and not arm.rounds:
            return [previous]
        done: list[Path] = []
        for number in range(1, arm.rounds + 1):
            place = self.folder / arm.name / f"round-{number}"
            pools = first
            if previous is not None:
                later = replace(
                    plan,
                    seed=plan.seed + number - 1,
                    candidates=arm.candidates,
                    rules=(arm.rule,) if arm.rule else (),
                )
                pools = self.pools(place / "pools.parquet", later, previous)
            previous = self._trained(arm, pools, place / "adapter", previous)
            done.append(previous)
        return done

    def _shown(self, arm: Arm, category: str) -> Path:
        """An adapter that is tuned on the world's own drawings of a category's prompts; the same
        for all arms that begin so.

        Raises:
            UserError: the prompts have no such category.
        """
        prompts = [prompt for prompt, kind in self.prompts.items() if kind == category]
        if not prompts:
            kinds = ", ".join(dict.fromkeys(self.prompts.values()))
            raise UserError(
                f"the study is about {category} prompts, and the world has {kinds}: choose another "
                "--world"
            )
        drawn = self._drawn(prompts, len(prompts) * _DRAWINGS)
        return tune(
            self.model,
            Chosen(settings=self.settings, pairs=drawn),
            self.folder / f"drawings of {category}",
            replace(arm.tuning, seed=self.seed),
            progress=lambda step, of, _: self.progress("drawings: tuning", step, of),
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What names the model that made the pairs."""
        return {"model_fingerprint": self.model.fingerprint, "model_parts": self.model.parts}

    def _trained(self, arm: Arm, pools: Pools, out: Path, previous: Path | None) -> Path:
        pairs = choose(pools, arm.rule, candidates=arm.candidates, keep=arm.keep, seed=self.seed)
        tuning = replace(arm.tuning, seed=self.seed, real_share=arm.real_share)
        real = None
        if arm.real_share:
            most = math.ceil(len(pairs) * arm.real_share / (1 - arm.real_share))
            if arm.same_size:
                # Every prompt keeps as many of its pairs as the share leaves it, the best first.
                pairs = _spread(pairs, max(1, round(len(pairs) * (1 - arm.real_share))))
            real = Chosen(settings=self.settings, pairs=self._drawn(pools.prompts, most))
        return tune(
            self.model,
            Chosen(settings=self.settings, pairs=pairs),
            out,
            tuning,
            adapter=previous,
            real=real,
            progress=lambda step, of, _: self.progress(f"{arm.name}: tuning", step, of),
        )

    def _drawn(self, prompts: Sequence[str], count: int) -> list[tuple[str, Tensor]]:
        """At least ``count`` of the world's own pictures, the better half of each prompt's by MI,
        the best first."""
        each = math.ceil(count / len(prompts))
        texts = [prompt for prompt in prompts for _ in range(2 * each)]
        pictures = [
            self.drawings(prompt, 2 * each, self.seed + number)
            for number, prompt in enumerate(prompts)
        ]
        latents = self.model.encode_images(torch.cat(pictures)).cpu()
        config = replace(
            RealConfig.of(self.model.preset).score, seed=self.seed, runtime=self.runtime
        )
        scores = score(self.model, texts, latents, config).view(len(prompts), -1)
        kept = scores.topk(each, dim=1)
        rows = (kept.indices + torch.arange(len(prompts))[:, None] * 2 * each).flatten()
        order = kept.values.flatten().argsort(descending=True)
        return [(texts[row], latents[row]) for row in rows[order].tolist()]


def _spread(pairs: list[tuple[str, Tensor]], count: int) -> list[tuple[str, Tensor]]:
    """``count`` of the pairs, as evenly over their prompts as can be, the first of each first."""
    place: dict[str, int] = {}
    turns = []
    for number, (prompt, _) in enumerate(pairs):
        place[prompt] = place.get(prompt, -1) + 1
        turns.append((place[prompt], number))
    return [pairs[number] for _, number in sorted(turns)[:count]]
