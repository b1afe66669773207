"""One configuration object for each activity, and the flat options that fill it."""

import dataclasses
import inspect

import pytest

import mitune
from mitune import (
    AlignConfig,
    BuildConfig,
    GenerateConfig,
    PruneConfig,
    RealConfig,
    Runtime,
    SamplerConfig,
    ScoreConfig,
    TuneConfig,
    UserError,
)
from mitune.arguments.spec import options
from mitune.cli.commands import COMMANDS
from mitune.config.options import names, with_options
from mitune.config.preset import PAPER
from mitune.worlds.shapes_v1.preset import PRESET

ACTIVITIES = {
    "build": (BuildConfig.of(PAPER), mitune.build_set),
    "generate": (GenerateConfig.of(PAPER), mitune.generate),
    "score": (ScoreConfig(), mitune.score),
    "real": (RealConfig.of(PAPER), mitune.build_real_set),
    "tune": (TuneConfig(), mitune.tune),
    "align": (AlignConfig.of(PAPER), mitune.align),
}


def parts_of(config: object) -> set[str]:
    """The names of fields that are configuration objects themselves."""
    assert dataclasses.is_dataclass(config)
    own = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    parts = {name: value for name, value in own.items() if dataclasses.is_dataclass(value)}
    return set(parts).union(*(parts_of(value) for value in parts.values()))


@pytest.mark.parametrize("name", ACTIVITIES)
def test_an_activity_takes_one_object_and_repeats_none_of_its_names(name: str) -> None:
    config, call = ACTIVITIES[name]
    parameters = inspect.signature(call).parameters
    assert type(config).__name__ in str(parameters["config"].annotation)
    assert not parameters.keys() & names(config)


@pytest.mark.parametrize(("verb", "activity"), [(v, v) for v in ACTIVITIES if v != "generate"])
def test_the_command_line_has_every_setting_that_is_a_users(verb: str, activity: str) -> None:
    config, _ = ACTIVITIES[activity]
    parts = parts_of(config)
    # AdamW's own numbers and what belongs to checkpoints are Python's; so is what benches choose.
    left = {"betas", "weight_decay", "eps", "clip", "checkpoint_every", "keep_checkpoints"}
    left |= {"implementation", "eta", "shared_noise"}
    left |= {
        "tune": set(),
        "align": {"real_share", "prior_weight", "dpo_beta", "itm_factor", "sampler"},
    }.get(verb, set())
    left |= {"sampler"} if verb == "build" else set()
    if verb in ("score", "real"):  # generation's part of the runtime
        left |= {"slots", "cuda_graphs"} | ({"batch"} if verb == "score" else set())
    assert names(config) - parts - left - options(COMMANDS[verb]).keys() == set()


@pytest.mark.parametrize("verb", ["build", "score", "real", "tune", "align"])
def test_the_command_line_writes_no_setting_a_second_time(verb: str) -> None:
    config, _ = ACTIVITIES[verb]
    own = {field.name for field in dataclasses.fields(COMMANDS[verb])}
    # The precision is that in which the model is loaded; how pruning is asked for makes a part.
    assert own & names(config) <= {"precision", "prune", "limit"}
    assert own & names(PruneConfig(policy="halving")) <= {"rungs"}


def test_flat_options_find_their_place() -> None:
    config = BuildConfig.of(PRESET, candidates=3, guidance=2.0, backend="inductor", keep=None)
    assert config == BuildConfig(
        candidates=3,
        keep=PRESET.keep,
        estimator=PRESET.estimator,
        draws=PRESET.draws,
        sampler=dataclasses.replace(PRESET.sampler, guidance=2.0),
        runtime=Runtime(backend="inductor"),
    )
    # A whole part, and one of its own settings over it.
    made = with_options(config, {"sampler": SamplerConfig(steps=5), "steps": 7})
    assert made.sampler == SamplerConfig(steps=7)


def test_a_name_that_there_is_not_is_pythons_own_mistake() -> None:
    with pytest.raises(TypeError, match="unexpected option 'candiates'"):
        BuildConfig.of(PAPER, candiates=3)
    with pytest.raises(TypeError, match="unexpected option 'lr'"):
        with_options(ScoreConfig(), {"lr": 1e-3})


@pytest.mark.parametrize(
    ("config", "option", "value", "now"),
    [
        (BuildConfig(), "settle", 0.4, "recheck_ties"),
        (BuildConfig(), "captured", True, "cuda_graphs"),
    ],
)
def test_former_names_work_and_warn(config, option, value, now) -> None:
    with pytest.warns(DeprecationWarning, match=f"{option} is called {now} now"):
        made = with_options(config, {option: value})
    assert made == with_options(config, {now: value})


def test_the_trainings_former_name_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="captured is called cuda_graphs now"):
        assert TuneConfig(captured=True) == TuneConfig(cuda_graphs=True)
    assert dataclasses.replace(TuneConfig(cuda_graphs=True), lr=1e-3).cuda_graphs


def test_another_rank_keeps_the_updates_scale() -> None:
    assert with_options(TuneConfig(), {"rank": 8}) == TuneConfig(rank=8, alpha=8)
    assert with_options(TuneConfig(), {"rank": 8, "alpha": 2.0}) == TuneConfig(rank=8, alpha=2.0)
    assert AlignConfig.of(PAPER, rank=8).tuning == TuneConfig(rank=8, alpha=8)


def test_align_runs_its_training_as_it_generates_where_that_can_be() -> None:
    def tuning(**options) -> TuneConfig:
        return AlignConfig.of(PAPER, **options).tuning

    assert tuning(backend="inductor", cuda_graphs=True) == TuneConfig(
        backend="inductor", cuda_graphs=True
    )
    assert tuning(backend="tensorrt").backend == "eager"  # which has no gradient
    assert tuning(backend="inductor", gradient="peft").backend == "eager"
    assert tuning(backend="inductor", method="full").backend == "eager"
    assert not tuning(cuda_graphs=True, text_encoder_lr=1e-6).cuda_graphs
    own = TuneConfig(lr=1e-3)
    assert tuning(backend="inductor", tuning=own) == own


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BuildConfig(candidates=0), "candidates is 0"),
        (lambda: BuildConfig(draws=0), "draws is 0"),
        (lambda: BuildConfig(seed=-1), "seed is -1"),
        (lambda: BuildConfig(estimator="other"), "estimator 'other' is not known"),
        (lambda: Runtime(slots=0), "slots is 0"),
        (lambda: Runtime(precision="int4"), "precision 'int4' is not known"),
        (lambda: ScoreConfig(batch=0), "batch is 0"),
        (lambda: ScoreConfig(estimator="trajectory"), "estimator 'trajectory' is not known"),
        (lambda: AlignConfig(rounds=0), "rounds is 0"),
        (lambda: BuildConfig(candidates="3"), "candidates is '3': expected a whole number"),
        (lambda: BuildConfig(candidates=2.5), "candidates is 2.5: expected a whole number"),
        (lambda: BuildConfig(candidates=True), "candidates is True: expected a whole number"),
        (lambda: BuildConfig(runtime={"slots": 3}), "expected a Runtime"),
        (lambda: BuildConfig(estimator=None), "estimator is None: expected a text"),
        (lambda: SamplerConfig(guidance="high"), "guidance is 'high': expected a number"),
        (lambda: TuneConfig(lr="high"), "lr is 'high': expected a number"),
        (lambda: TuneConfig(micro_batch=2.5), "expected a whole number or 'auto'"),
        (lambda: TuneConfig(targets="to_q"), "targets is 'to_q': expected a tuple"),
        (lambda: RealConfig(limit=0), "limit is 0"),
        (lambda: AlignConfig(tuning=TuneConfig(real_share=0.5)), "real_share is 0.5"),
        (lambda: AlignConfig(tuning=TuneConfig(prior_weight=0.5)), "prior_weight is 0.5"),
        (
            lambda: BuildConfig(estimator="standard", prune=PruneConfig(policy="halving")),
            "prune is halving, pools are ranked by standard",
        ),
    ],
)
def test_a_value_out_of_range_is_refused_where_it_is_given(make, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()


def test_one_threshold_is_one_setting_however_it_was_given() -> None:
    assert repr(SamplerConfig(t_min=400.0)) == repr(SamplerConfig(t_min=400))
    assert SamplerConfig(t_min=0.05).t_min == 0.05
