"""The verb that aligns a model with itself: align."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from mitune.arguments.fields import Given, stands_for
from mitune.cli.commands.given import given_prompts, held_out_prompts, warn_long
from mitune.cli.commands.pages import leave_report
from mitune.cli.commands.print_set import print_set
from mitune.cli.commands.repeat import running
from mitune.cli.options.model import Common
from mitune.cli.options.pool import Pool
from mitune.cli.options.settings import given, of_presets, settings_of
from mitune.config.align import AlignConfig


@dataclass(frozen=True, kw_only=True)
class Align(Common, Pool):
    """Align a model with itself: rounds of build, select and tune; then compare base and tuned.

    Leaves OUT/round-R/adapter (load it with diffusers' load_lora_weights), OUT/report.html to look
    at, OUT/eval.json, and the pictures OUT/eval.png and OUT/ranking.png. The same command after an
    interruption goes on.
    """

    out: Path
    """Folder of the run."""
    eval_prompts: Annotated[
        Path | None,
        stands_for("the shapes world's test list; no comparison for other models"),
    ] = None
    """Text file of held-out prompts for the comparison."""
    images: int = 4
    """Pictures of each prompt in the comparison."""
    settings: Annotated[
        Given,
        settings_of(
            AlignConfig,
            of_presets(AlignConfig.of),
            {"prune", "real_share", "prior_weight", "dpo_beta", "itm_factor"},
        ),
    ] = field(default_factory=dict)

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
            print_set(summary, f"round {number}: ")
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
                seeds=[config.build.seed + 1_000_000],
                runtime=replace(config.build.runtime, precision=None),
            )
        leave_report(self.out, model)
        print(f"adapter: {last.adapter}")
        return result
