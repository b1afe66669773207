"""The verb that measures: bench."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mitune.arguments.fields import Positional, stands_for
from mitune.cli.options.model import Output
from mitune.config.choices import Backend, Implementation, Precision
from mitune.core.errors import UserError

if TYPE_CHECKING:
    import torch

    from mitune.bench.rungs import Setting


@dataclass(frozen=True, kw_only=True)
class Bench(Output):
    """Measure on this machine: ratios to a baseline of the same run."""

    what: Positional[Literal["step", "generate", "scale", "train"]]
    """step: every implementation of the fused step against eager torch, torch.compile and a copy
    of the same bytes. generate: the ladder of set construction, from the authors' loop to ours; on
    two cores some 25 minutes. scale: ten times the candidates and ten times the prompts, in time
    and memory. train: from the authors' trainer to ours."""
    rows: int = 128
    """step: candidates in the batch."""
    elements: int = 16384
    """step: elements of a latent; 16384 are the 4 x 64 x 64 of a picture of 512 pixels."""
    compiled: bool = True
    """step: also torch.compile of the reference, which first takes a minute to compile."""
    model: str = "shapes"
    """generate, scale, train: a model folder or name; sd21-base-random is SD-2.1-base's
    architecture with random weights."""
    prompts: int = 20
    """generate, scale: of the embedded world's training list."""
    candidates: int = 50
    """generate, scale: of each prompt."""
    steps: int = 50
    """generate, scale: denoising steps."""
    slots: int = 64
    """generate, scale: candidates in flight; the baselines take a prompt's pool."""
    backend: Backend = "eager"
    """scale: what runs the denoiser."""
    precision: Annotated[
        Precision | None,
        stands_for("bfloat16 on a GPU; bf16-mixed on a CPU, or float32 where it has no bfloat16"),
    ] = None
    """generate, train: of our rungs below float32. On a GPU bf16-mixed moves more bytes than
    bfloat16 (by estimate: neither was measured there)."""
    implementation: Implementation = "auto"
    """generate, scale: of the fused step."""
    slow_prompts: Annotated[int | None, stands_for("all")] = None
    """generate: so many of the prompts for the baselines and what runs in float32."""
    batch: int = 400
    """train: samples of an optimizer step; the authors take them 8 at a time, the fair baseline
    32."""
    micro_batch: int = 40
    """train: samples of one pass of ours."""
    iterations: int = 3
    """train: optimizer steps that are timed."""
    exact_samples: int = 2
    """train: of one pass of the reference in float64, 8.4 GiB each at SD-2.1's size; 0: none, and
    no gradient is compared."""
    only: Annotated[tuple[str, ...] | None, stands_for("all rungs")] = None
    """generate, train: only rungs of these names, such as authors "exact float32"; those that a
    GPU runs go in this order."""
    figures: Annotated[Path | None, stands_for("no file")] = None
    """A file of JSON lines: each figure is written there as soon as it is known, and one that an
    earlier run with the same options left there is not measured again."""
    plot: Annotated[Path | None, stands_for("no picture")] = None
    """generate: a picture of the ladder (PNG or SVG; needs matplotlib)."""
    device: Annotated[str | None, stands_for("a GPU where there is one, else cpu")] = None
    """cpu, cuda or cuda:N."""

    def run(self) -> dict[str, Any]:
        measures = {
            "step": self._step,
            "generate": self._generate,
            "scale": self._scale,
            "train": self._train,
        }
        from mitune.core.progress import quiet_libraries
        from mitune.runtime.malloc import keep_freed_memory

        quiet_libraries()
        if self.what in ("step", "scale"):  # the others have baselines, which come before it
            keep_freed_memory()
        return measures[self.what]()

    def _setting(self) -> "Setting":
        from mitune.bench.rungs import Setting
        from mitune.config.sampling import SamplerConfig
        from mitune.load import pick_device
        from mitune.worlds.known import WORLDS
        from mitune.worlds.shapes.world import SHAPES

        for name, value in (
            ("prompts", self.prompts),
            ("candidates", self.candidates),
            ("slow_prompts", self.slow_prompts),
        ):
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}: expected at least 1")
        texts = WORLDS.get(self.model, SHAPES).prompts("train")
        if self.prompts > len(texts):
            raise UserError(f"prompts is {self.prompts}: expected at most {len(texts)}")
        device = pick_device(self.device)
        return Setting(
            model=self.model,
            prompts=texts[: self.prompts],
            candidates=self.candidates,
            sampler=SamplerConfig(steps=self.steps, guidance=7.5, convention="reference"),
            slots=self.slots,
            precision=self.precision or _fastest(device),
            device=str(device),
            captures=device.type == "cuda",
            implementation=self._implementation(device),
            slow_prompts=self.slow_prompts,
        )

    def _implementation(self, device: "torch.device") -> Implementation:
        """The name as given, if it runs there."""
        from mitune_kernels.dispatch import choose

        try:
            choose(self.implementation, device)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"implementation {self.implementation!r}: {error}") from error
        return self.implementation

    def _generate(self) -> dict[str, Any]:
        from mitune.bench.ladder import ladder
        from mitune.bench.plot import check_plot, plot_ladder
        from mitune.bench.table import HEADER, explain

        setting = self._setting()
        if self.plot:
            check_plot(self.plot)
        print(HEADER, flush=True)
        result = ladder(setting, partial(print, flush=True), self.only, self.figures)
        print(explain(result))
        if self.plot:
            plot_ladder(result, self.plot)
        return result

    def _scale(self) -> dict[str, Any]:
        import torch

        from mitune.bench.rungs import load_model
        from mitune.bench.scale import TIMES, measure_scale
        from mitune.core.provenance import environment

        setting = self._setting()
        result = measure_scale(
            load_model(setting, "float32"),
            setting.prompts,
            candidates=setting.candidates,
            sampler=setting.sampler,
            slots=setting.slots,
            backend=self.backend,
            implementation=setting.implementation,
            file=self.figures,
        )
        for name, case in result.items():
            small, large = case["seconds"]
            print(
                f"{TIMES} times the {name}: {small:.2f} -> {large:.2f} s, {case['ratio']:.2f} "
                f"times; peak memory grew by {case['grown_bytes'] / 2**20:.1f} MiB to "
                f"{case['peak_bytes'] / 2**20:.0f}"
            )
        return environment(torch.device(setting.device)) | result

    def _train(self) -> dict[str, Any]:
        import torch

        from mitune.bench.figures import doing
        from mitune.bench.rungs import load_model
        from mitune.bench.train import HEADER, TrainSetting, explain, measure_training

        setting = self._setting()
        if self.exact_samples < 0:
            raise UserError(f"exact_samples is {self.exact_samples}: expected at least 0")
        doing(f"loading {setting.model}")
        model = load_model(setting, "float32")
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(len(setting.prompts), *model.latent_shape, generator=generator)
        config = replace(
            model.preset.tuning,
            batch=self.batch,
            micro_batch=self.micro_batch,
            iterations=self.iterations + 1,
        )
        print(HEADER, flush=True)
        result = measure_training(
            TrainSetting(
                model=model,
                pairs=list(zip(setting.prompts, latents, strict=True)),
                config=config,
                steps=self.iterations,
                half=setting.precision,
                exact_samples=self.exact_samples,
            ),
            partial(print, flush=True),
            self.only,
            self.figures,
        )
        print(explain(result))
        return result

    def _step(self) -> dict[str, Any]:
        from mitune.bench.step import measure, measure_share
        from mitune.load import pick_device

        for name, value in (("rows", self.rows), ("elements", self.elements)):
            if value < 1:
                raise UserError(f"{name} is {value}: expected at least 1")
        device = pick_device(self.device)
        result = measure(
            self.rows, self.elements, device=device, compiled=self.compiled, file=self.figures
        )
        print(
            f"{result['device']}, {self.rows} rows of {self.elements} float32; "
            f"a copy moves {result['copy_gb_per_s']:.1f} GB/s"
        )
        print(f"{'':<12} {'seconds':>10} {'x eager':>8} {'of copy':>8}   with noise: the same")
        for name, without in result.items():
            if isinstance(without, dict) and "noise" in without:
                figures = "   ".join(
                    f"{case['seconds']:10.2e} {case['ratio_vs_eager']:8.2f} "
                    f"{case['bandwidth_fraction']:8.0%}"
                    for case in (without, without["noise"])
                )
                print(f"{name:<12} {figures}")
        for name, why in result.get("refused", {}).items():
            print(f"{name:<12} REFUSED, it differs from the reference: {why}")
        if device.type == "cpu":
            share = measure_share()
            print(
                f"in a tick of {share['slots']} candidates of the embedded model: "
                f"{share['step_seconds']:.2e} of {share['tick_seconds']:.2e} s, "
                f"{share['share']:.2%}"
            )
            result["tick"] = share
        return result


def _fastest(device: "torch.device") -> Precision:
    """The precision of our rungs below float32 where that is faster."""
    from mitune.runtime.mixed_precision import halves_pay

    if device.type == "cuda":
        return "bfloat16"
    return "bf16-mixed" if halves_pay(device) else "float32"
