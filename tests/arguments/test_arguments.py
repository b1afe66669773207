"""Words and files as a user may give them: every mistake is one line that names the option."""

import json
import typing

import mitune_kernels
import pytest

from mitune.arguments.file import NAME
from mitune.arguments.parser import parse
from mitune.cli import main
from mitune.cli.commands import COMMANDS
from mitune.cli.commands.align import Align
from mitune.cli.commands.build import Build
from mitune.cli.commands.score import Score
from mitune.cli.commands.tune import Tune
from mitune.config import choices
from mitune.core.errors import UserError

OUT = ["--out", "a"]
BUILD = ["build", *OUT]
TUNE = ["tune", "--set", "s", *OUT]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["biuld"], "did you mean build?"),
        (["bui"], "did you mean build?"),
        (["--verson"], "did you mean --version?"),
        (["help"], "did you mean --help?"),
        ([""], "verb '' is not known"),
        (["\udcff"], r"verb '\udcff' is not known: choose one of align, build"),
        (["build"], "--out is missing: expected PATH (Folder of the set)"),
        (["build", "--out"], "--out has no value: expected --out PATH"),
        (["build", "--out="], "--out is empty: expected a path"),
        (["build", "--out", ""], "--out is empty: expected a path"),
        (["build", "--out", "--seed", "1"], "--out has no value"),
        (["build", "--out", "\udcff"], r"--out is '\udcff': expected a path in UTF-8"),
        (["build", "--out", "a\0b"], "--out holds a NUL character"),
        ([*BUILD, "--candidate", "3"], "did you mean --candidates?"),
        ([*BUILD, "--sed", "3"], "did you mean --seed?"),
        ([*BUILD, "--no-seed"], "option --no-seed is not known"),
        ([*BUILD, "-x"], "option -x is not known"),
        ([*BUILD, "--\udcff"], r"option '--\udcff' is not known"),
        ([*BUILD, "more"], "more is a word too many"),
        ([*BUILD, "--", "--seed"], "--seed is a word too many"),
        ([*BUILD, "--seed", "1", "--seed", "2"], "--seed is given twice"),
        ([*BUILD, "--quiet", "--no-quiet"], "--quiet is given on and off"),
        ([*BUILD, "--quiet=yes"], "--quiet=yes has a value: expected --quiet alone"),
        ([*BUILD, "--seed", "x"], "--seed is x: expected a whole number"),
        ([*BUILD, "--seed", ""], "--seed is '': expected a whole number"),
        ([*BUILD, "--seed", "1.5"], "--seed is 1.5: expected a whole number"),
        ([*BUILD, "--seed", "None"], "--seed is None: expected a whole number"),
        ([*BUILD, "--limit", "1" * 30], "expected a number below 2**63"),
        ([*BUILD, "--limit", "9" * 5000], "expected a whole number"),
        ([*BUILD, "--guidance", "nan"], "--guidance is nan: expected a finite number"),
        ([*BUILD, "--guidance", "-inf"], "--guidance is -inf: expected a finite number"),
        ([*BUILD, "--guidance", "1e999"], "--guidance is 1e999: expected a finite number"),
        ([*BUILD, "--scheduler", "heun"], "--scheduler is heun: choose one of ddpm, ddim, euler"),
        ([*BUILD, "--scheduler", "a\nb"], r"--scheduler is 'a\nb': choose one of"),
        ([*BUILD, "--backend", "x" * 999], "--backend is xxx"),
        ([*BUILD, "--model", ""], "--model is empty: expected text"),
        ([*BUILD, "--model", "\udcff"], r"--model is '\udcff': expected text in UTF-8"),
        ([*BUILD, "--micro-batch", "8"], "option --micro-batch is not known"),
        ([*TUNE, "--t-range", "5"], "--t-range has 1 value: expected --t-range N N"),
        ([*TUNE, "--t-range", "5", "x"], "--t-range is x: expected a whole number"),
        ([*TUNE, "--t-range", "0", "9", "9"], "9 is a word too many"),
        ([*TUNE, "--micro-batch", "all"], "--micro-batch is all: expected a whole number or auto"),
        ([*TUNE, "--backend", "tensorrt"], "--backend is tensorrt: choose one of eager, inductor"),
        (["score", "--prompt", "a"], "images is missing: expected PATH..."),
        (["score", "", "--prompt", "a"], "images is empty: expected a path"),
        (["score", "a.png"], "--prompt is missing"),
        (["score", "a.png", "--prompt", "\udcff"], "expected text in UTF-8"),
        (["bench", "all"], "what is all: choose one of step, generate, scale, train"),
        (["export", *OUT, "--adapter", "b", "--format", "zip"], "diffusers, comfyui, kohya"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_mistakes_in_words(arguments, words, as_json, capsys):
    if as_json:
        arguments = [*arguments[:1], "--json", *arguments[1:]]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    told = capsys.readouterr()
    assert stop.value.code == 2
    assert told.err.startswith("mitune: ")
    assert words in told.err
    assert len(told.err.splitlines()) == 1
    assert len(told.err) < 250
    assert [json.loads(line) for line in told.out.splitlines()] == (
        [{"error": told.err.removeprefix("mitune: ").strip()}] if as_json else []
    )


def test_a_list_that_is_not_given_is_empty():
    made = parse(["--out", "a"], COMMANDS["generate"], program="mitune generate")
    assert made.prompt == []
    given = parse(
        ["--out", "a", "--prompt", "b", "--prompt", "c"], COMMANDS["generate"], program="mitune"
    )
    assert given.prompt == ["b", "c"]
    assert made.prompt == []


def test_ways_to_give_a_value():
    made = parse(["--out=a", "--t_min", "5", "--guidance", "-1.5"], Build, program="mitune build")
    assert (str(made.out), dict(made.settings)) == ("a", {"t_min": 5, "guidance": -1.5})
    made = parse(["--out", "-a", "--t-min", "None"], Build, program="mitune build")
    assert made.settings["t_min"] is None
    made = parse([*OUT, "--rungs", "25:20", "35:10", "--quiet"], Align, program="mitune align")
    assert (made.rungs, made.quiet) == (("25:20", "35:10"), True)
    tune = [*TUNE[1:], "--micro-batch", "auto", "--t-range", "0", "9"]
    made = parse(tune, Tune, program="mitune tune")
    assert dict(made.settings) == {"micro_batch": "auto", "t_range": (0, 9)}
    words = ["--prompt", "--", "--x", "b.png"]
    with pytest.raises(UserError, match="--prompt has no value"):
        parse(words, Score, program="mitune score")
    words = ["a.png", "--prompt=--x", "--prompt", "", "--", "-b.png"]
    made = parse(words, Score, program="mitune score")
    assert ([str(i) for i in made.images], made.prompt) == (["a.png", "-b.png"], ["--x", ""])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"- a\n- b\n", "is not a mapping"),
        (b"text", "is not a mapping"),
        (b"a: [1", "is not YAML: while parsing a flow sequence"),
        (b"model: !!python/object/apply:os.system ['true']", "line 1: expected a value or a list"),
        (b"2020-99-99: 1", "2020-99-99 is no option of build"),
        (b"model: !!python/name:os.system ''", "line 1: expected a value or a list"),
        (b"[" * 5_000, "is not YAML"),
        (b"\xff\xfe\xfa", "is not text in UTF-8"),
        (b"#" * (1 << 21), "is larger than"),
        (b"{[1]: 2}", "line 1: expected a value or a list"),
        (b"candidate: 3", "candidate is no option of build; did you mean candidates?"),
        (b"1: 3", "1 is no option of build"),
        (b"config: other.yaml", "config is no option of build"),
        (b"steps: 3\nsteps: 3", "steps is there twice"),
        (b"t-min: 3\nt_min: 3", "t_min is there twice"),
        (b"verb: tune", "is of the verb tune: expected one of build"),
        (b"steps: many", "--steps is many: expected a whole number"),
        (b"steps: 1.5", "--steps is 1.5: expected a whole number"),
        (b"steps: true", "--steps is true: expected a whole number"),
        (b"steps: [1]", "--steps is a list: expected a whole number"),
        (b"steps: {a: 1}", "line 1: expected a value or a list"),
        (b"seed:", "--seed is null: expected a whole number"),
        (b"guidance: nan", "--guidance is nan: expected a finite number"),
        (b"out:", "--out is null: expected a path"),
        (b"rungs: [25:20, ~]", "--rungs is null: expected text"),
        (b"out: ''", "--out is empty"),
        (b"quiet: 1", "--quiet is 1: expected true or false"),
        (b"rungs: 25:20", "--rungs is 25:20: expected a list of text"),
        (b"scheduler: heun", "--scheduler is heun: choose one of ddpm"),
        (b"steps: [&a [x, x], [*a, *a]]", "line 1: expected a value or a list"),
    ],
)
def test_mistakes_in_a_file(content, words, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as told:
        parse(["--config", str(path), *OUT], Build, program="mitune build")
    assert words in str(told.value)
    assert str(path) in str(told.value)
    assert len(str(told.value)) < 400 + len(str(path))


def test_a_file_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="cannot be read: "):
            parse([*OUT, "--config", str(path)], Build, program="mitune build")


def test_a_file_and_words_that_override_it(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "verb: tune\nset: s\nlr: 1e-3\nt-range: [0, 9]\nquiet: on\nrank: 4\nmicro-batch: auto\n"
        "snr_gamma: 5\ntext-encoder-lr: null\nout: a\nheld_out: é.txt\n",
        encoding="utf-8-sig",
    )
    words = ["--config", str(path), "--no-json", "--rank", "8"]
    made = parse(words, Tune, program="mitune tune")
    assert made.settings == {
        "lr": 1e-3,
        "t_range": (0, 9),
        "rank": 8,
        "micro_batch": "auto",
        "snr_gamma": 5.0,
        "text_encoder_lr": None,
    }
    assert (str(made.set), str(made.held_out), made.quiet) == ("s", "é.txt", True)


@pytest.mark.parametrize("verb", [Align, Build, Tune])
def test_a_file_that_only_repeats_defaults_changes_nothing(verb, tmp_path):
    from mitune.arguments import file

    given = ["--out", str(tmp_path)] + (["--set", "s"] if verb is Tune else [])
    plain = parse(given, verb, program=f"mitune {verb.__name__.lower()}")
    file.write(plain, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [NAME]
    again = ["--config", str(tmp_path / NAME)]
    assert parse(again, verb, program=f"mitune {verb.__name__.lower()}") == plain


def test_a_file_repeats_a_command_of_odd_values(tmp_path):
    from mitune.arguments import file

    words = [*OUT, "--rungs", "25:20", "35:10", "--lr", "1e-05", "--targets", "yes", "1", "--quiet"]
    words += ["--model", "on", "--prompts", "a: b#\n'\"é\x07.txt", "--guidance", "3"]
    made = parse(words, Align, program="mitune align")
    file.write(made, tmp_path)
    again = parse(["--config", str(tmp_path / NAME)], Align, program="mitune align")
    assert again == made


def test_choices_are_those_of_what_they_name():
    """They are written down apart, so that the command line need not import torch."""
    from mitune.adapters.export.write import FORMATS
    from mitune.diffusion import schedule
    from mitune.diffusion.rectified_flow import FLOW_CONVENTIONS
    from mitune.diffusion.variance_preserving import CONVENTIONS
    from mitune.models.precision import PRECISIONS
    from mitune.runtime import attention, backends
    from mitune.scoring import estimate
    from mitune.sets import RULES
    from mitune.training.trackers import TRACKERS

    for literal, known in (
        (choices.Precision, PRECISIONS),
        (choices.Scheduler, schedule.SOLVERS),
        (choices.Convention, [*CONVENTIONS, *FLOW_CONVENTIONS]),
        (choices.Backend, backends.BACKENDS),
        (choices.Attention, attention.ATTENTIONS),
        (choices.Rule, RULES),
        (choices.Estimator, ["trajectory", "rfmi", *estimate.ESTIMATORS]),
        (choices.Implementation, ["auto", *mitune_kernels.implementations()]),
        (choices.ReNoising, estimate.ESTIMATORS),
        (choices.Tracker, TRACKERS),
        (choices.Form, FORMATS),
    ):
        assert typing.get_args(literal) == tuple(known)


def test_every_verb_is_its_class_in_lower_case():
    """By which a run's file names it."""
    assert all(verb.__name__.lower() == name for name, verb in COMMANDS.items())
