"""What decides an alignment: the rounds, and what each of them builds and trains."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from mitune.config.options import check_positive, check_types, with_options
from mitune.config.preset import Preset
from mitune.config.sets import BuildConfig
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """Rounds of build, select and tune (Wang et al., Algorithm 1)."""

    FOLLOWS: ClassVar[Mapping[str, str]] = TuneConfig.FOLLOWS

    rounds: int = 1
    """Rounds R; each starts from the last one's adapter."""
    build: BuildConfig = field(default_factory=BuildConfig)
    """Of every round's set; round r takes ``seed + r - 1``, so that none repeats another's
    noise."""
    tuning: TuneConfig = field(default_factory=TuneConfig)
    """Of every round's adapter; its seed is replaced by the build's."""

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(rounds=self.rounds)
        if self.tuning.real_share:
            raise UserError(
                f"real_share is {self.tuning.real_share}: align mixes in no real pictures; build "
                "the set, and tune on it with them"
            )
        if self.tuning.prior_weight:
            raise UserError(
                f"prior_weight is {self.tuning.prior_weight}: align has no prior set; build the "
                "sets, and tune on one with the other as its prior"
            )

        for name in ("dpo_beta", "itm_factor"):
            if value := getattr(self.tuning, name):
                raise UserError(
                    f"{name} is {value:g}: align has no set of worse pictures; build it with "
                    "select worst, and tune on one set with the other as its worse"
                )

    @classmethod
    def of(cls, preset: Preset, **options: Any) -> "AlignConfig":
        """The preset's, with flat options in place of its own (``mitune.config.options``)."""
        return cls(build=BuildConfig.of(preset), tuning=preset.tuning).having(**options)

    def having(self, **options: Any) -> "AlignConfig":
        """This with flat options in place of its own. A backend is the training's too, and so are
        CUDA graphs, unless ``tuning`` is given or cannot run so."""
        made = with_options(self, options)
        if options.get("tuning") is not None:
            return made
        runs = {name: options.get(name) for name in ("backend", "cuda_graphs")}
        if made.tuning.gradient != "merged" or made.tuning.method == "full":
            runs = {}
        if runs.get("backend") == "tensorrt":  # which has no gradient
            del runs["backend"]
        if made.tuning.text_encoder_lr is not None:
            runs.pop("cuda_graphs", None)
        return replace(made, tuning=with_options(made.tuning, runs))
