"""The verb that asks a question on an embedded world: study."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from mitune.arguments.fields import Positional, stands_for
from mitune.cli.commands.pages import leave_report
from mitune.cli.commands.repeat import check_out, leave_command
from mitune.cli.options.model import Output
from mitune.config.choices import Precision, TrainingBackend

Name = Literal[
    "agreement",
    "selection",
    "estimators",
    "ratio",
    "keep",
    "real",
    "trained",
    "rounds",
    "times",
    "guidance",
    "dropout",
    "strength",
    "loss",
    "star",
    "sampling",
    "methods",
    "maps",
]


@dataclass(frozen=True, kw_only=True)
class Study(Output):
    """Ask one of the paper's questions on an embedded world, whose oracle knows what pictures show.

    Leaves OUT/report.html, table.md, table.parquet and study.json, and where models are compared
    plot.png and pictures.parquet, the verdict on every picture. The same command after an
    interruption goes on.
    """

    what: Positional[Name]
    """agreement: which score ranks pools as the oracle does, by guidance and category. maps: where
    in a picture is what a phrase adds. sampling: methods that act while a picture is sampled.
    methods: MI-Tune against its competitors, with what each needs (Table 1). All others tune in
    several ways and compare what held-out prompts then give. selection: the best by MI against
    random ones. estimators: each score as the selector. ratio, keep: how many of how large a pool
    (Table 6). real: a share of real pictures (Table 7). trained: which parts (Table 8). rounds: one
    to three. times: which timesteps. guidance: of the pool and of use. dropout: of captions.
    strength: the learning rate. loss: a term for the mutual information in it. star: MI after a
    tuning on spatial prompts (MI-Tune *)."""
    out: Path
    """Folder of the study."""
    work: Annotated[Path | None, stands_for("OUT")] = None
    """Folder of pools, adapters and judged pictures; studies with one folder share what is
    equal."""
    world: str = "shapes"
    """The embedded world, by the name of its model."""
    folder: Annotated[Path | None, stands_for("the shipped model")] = None
    """Folder of another training of the world's model."""
    seeds: int = 3
    """Independent repetitions; pools, adapters and test pictures all differ."""
    prompts: int = 8
    """Training prompts of each category."""
    test_prompts: int = 8
    """Held-out prompts of each category."""
    unseen: bool = False
    """Prompts with something that pre-training never showed, instead of those without."""
    images: int = 8
    """Test pictures of each prompt, model and seed."""
    candidates: int = 32
    """Pool size."""
    keep: Annotated[int | None, stands_for("the preset's")] = None
    """How many of each pool are kept."""
    steps: Annotated[int | None, stands_for("the preset's")] = None
    """Denoising steps."""
    guidance: Annotated[float | None, stands_for("the preset's; of agreement 1 2 3 5 7.5")] = None
    """Guidance of the pools."""
    use_guidance: Annotated[float | None, stands_for("the preset's")] = None
    """Guidance at which models are compared."""
    iterations: Annotated[int | None, stands_for("the preset's")] = None
    """Optimizer steps of each tuning."""
    backend: TrainingBackend = "eager"
    """What runs the denoiser; inductor compiles first and is faster."""
    precision: Precision = "float32"
    """Of the denoiser; bf16-mixed is faster where the processor has bfloat16."""
    processes: Annotated[int | None, stands_for("one on a GPU, else one per core")] = None
    """Seeds that run at the same time, each on one core."""
    quiet: bool = False
    """No progress."""

    def run(self) -> dict[str, Any]:
        from dataclasses import fields

        from mitune.evaluation.studies.catalogue import STUDIES
        from mitune.evaluation.studies.plan import Plan

        check_out(self.out)
        plan = Plan(**{field.name: getattr(self, field.name) for field in fields(Plan)})
        result = STUDIES[self.what](plan)
        leave_command(self, self.out)
        leave_report(self.out)
        return result
