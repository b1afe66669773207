"""What watches a training: it changes nothing unless asked to, and survives every kill."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from nursery import run_script
from outcome import Killed
from safetensors.torch import load_file
from tiny_model import TinyModel, TinySet, config, refusal

from mitune.adapters import adapter
from mitune.adapters.adapter_file import FILE
from mitune.training import steps
from mitune.training.callbacks import Watch
from mitune.training.loop import tune

PEAK = {2: 1.0, 4: 3.0, 6: 2.0, 8: 3.0, 10: 2.5, 12: 9.0}
"""Highest at step 4 until step 12, two measures behind which a patience of 2 never comes."""


class Scripted:
    """MI by the step, which is told from the lines of metrics.jsonl that are there already."""

    prompts = ("something else",)

    def __init__(self, out: Path, values: Mapping[int, float] = PEAK, by: str = "script") -> None:
        self.out, self.values = out, values
        self.settings = {"by": by}

    def mi(self) -> float:
        path = self.out / "metrics.jsonl"
        return self.values[1 + (len(path.read_text().splitlines()) if path.exists() else 0)]


def run(out: Path, *, watch: Any = None, progress: Any = None, **changes: Any) -> Path:
    few: dict[str, Any] = {"iterations": 12, "batch": 2, "targets": ("to_q",)}
    settings = config(**(few | changes))
    return tune(TinyModel(), TinySet(), out, settings, watch=watch, progress=progress)


def scripted(out: Path, values: Mapping[int, float] = PEAK, **options: Any) -> Watch:
    return Watch(held_out=Scripted(out, values), held_out_every=2, **options)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def measured(out: Path) -> dict[int, Any]:
    return {line["step"]: line["held_out_mi"] for line in lines(out) if "held_out_mi" in line}


def checkpoints(out: Path) -> list[int]:
    return sorted(int(p.name.removeprefix("step-")) for p in (out / "checkpoints").iterdir())


def left(out: Path) -> dict[str, Any]:
    """All that a run leaves but its times."""
    timeless = [{k: v for k, v in line.items() if k != "seconds"} for line in lines(out)]
    names = [str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()]
    kept = {
        name: (out / name).read_bytes() for name in names if name not in ("metrics.jsonl", ".lock")
    }
    return {"metrics": timeless, **kept}


def equal(one: Path, other: Path) -> bool:
    a, b = load_file(one / FILE), load_file(other / FILE)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody watches."""
    return run(tmp_path_factory.mktemp("runs") / "straight")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that stops early and leaves its best."""
    out = tmp_path_factory.mktemp("runs") / "stopped"
    return run(out, watch=scripted(out, patience=3, best=True))


def test_who_only_looks_changes_no_byte(tmp_path: Path, straight: Path) -> None:
    seen: list[str] = []

    def samples(path: Path) -> None:
        seen.append(path.name)
        path.write_bytes(b"picture")

    out = tmp_path / "run"
    run(out, watch=scripted(out, samples=samples, validation_steps=5))
    assert (out / FILE).read_bytes() == (straight / FILE).read_bytes()
    assert (out / "README.md").read_bytes() == (straight / "README.md").read_bytes()
    recorded = [json.loads((p / "run.json").read_text())["settings"] for p in (out, straight)]
    assert recorded[0] == recorded[1]
    assert seen == ["step-000005.png", "step-000010.png", "step-000012.png"]
    assert measured(out) == PEAK
    assert [line["step"] for line in lines(out)] == list(range(1, 13))


def test_the_best_checkpoint_stays_beside_the_newest(tmp_path: Path) -> None:
    values = {2: 0.0, 4: 5.0, 6: 1.0, 8: 1.0, 10: 1.0, 12: 1.0}
    run(tmp_path, watch=scripted(tmp_path, values))
    assert checkpoints(tmp_path) == [4, 9, 12]
    run(tmp_path / "b", watch=scripted(tmp_path / "b", PEAK))
    assert checkpoints(tmp_path / "b") == [9, 12]


def test_patience_ends_the_run_and_best_chooses_the_adapter(
    tmp_path: Path, stopped: Path, straight: Path
) -> None:
    assert measured(stopped) == {2: 1.0, 4: 3.0, 6: 2.0, 8: 3.0, 10: 2.5}
    assert [line["step"] for line in lines(stopped)] == list(range(1, 11))
    assert checkpoints(stopped) == [4, 6, 9]
    run(tmp_path / "4", iterations=4)
    assert equal(stopped, tmp_path / "4")
    last = tmp_path / "last"
    run(last, watch=scripted(last, patience=3))
    run(tmp_path / "10", iterations=10)
    assert equal(last, tmp_path / "10")
    assert not equal(last, stopped)
    patient = tmp_path / "patient"  # enough for the last step, which is the best
    assert equal(run(patient, watch=scripted(patient, patience=4, best=True)), straight)


def test_the_card_says_which_step_it_is(stopped: Path, straight: Path) -> None:
    text = (stopped / "README.md").read_text()
    assert "| best held-out MI | 3 nats, after step 4 |" in text
    assert "| this adapter | after step 4 of 12 |" in text
    assert "| held-out MI: patience | 3 |" in text
    assert "held-out" not in (straight / "README.md").read_text()


@pytest.mark.parametrize("step", [3, 5, 10])
def test_a_killed_run_leaves_the_same(tmp_path: Path, stopped: Path, step: int) -> None:
    out = tmp_path / "run"

    def kill(done: int, *_: object) -> None:
        if done == step:
            raise Killed

    with pytest.raises(Killed):
        run(out, watch=scripted(out, patience=3, best=True), progress=kill)
    assert not (out / FILE).exists()
    run(out, watch=scripted(out, patience=3, best=True))
    assert left(out) == left(stopped)


@pytest.mark.parametrize("step", [4, 9])
def test_a_kill_between_measure_and_checkpoint(
    tmp_path: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The measure is in metrics.jsonl, the best in no checkpoint: it is measured again."""
    out, save = tmp_path / "run", steps.checkpoint.save

    def killed(state: Any, *rest: Any) -> Path:
        if state.step == step:
            raise Killed
        return save(state, *rest)

    monkeypatch.setattr(steps.checkpoint, "save", killed)
    with pytest.raises(Killed):
        run(out, watch=scripted(out, patience=3, best=True))
    monkeypatch.undo()
    run(out, watch=scripted(out, patience=3, best=True))
    assert left(out) == left(stopped)


def test_a_kill_after_the_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has stopped, with a checkpoint of its last step, and has not published."""

    def finished(name: str) -> Path:
        out = tmp_path / name
        return run(out, watch=scripted(out, patience=3, best=True), checkpoint_every=5)

    def killed(*_: object) -> None:
        raise Killed

    whole = finished("whole")
    assert checkpoints(whole) == [4, 5, 10]
    monkeypatch.setattr(steps, "card", killed)
    with pytest.raises(Killed):
        finished("killed")
    monkeypatch.undo()
    # What a kill during the removal of old checkpoints leaves.
    (tmp_path / "killed" / "checkpoints" / "step-000002").mkdir()
    assert left(finished("killed")) == left(whole)
    assert checkpoints(tmp_path / "killed") == [4, 5, 10]


def test_what_decides_is_recorded(tmp_path: Path, stopped: Path) -> None:
    recorded = json.loads((stopped / "run.json").read_text())["settings"]["held_out"]
    assert recorded == {"by": "script", "every": 2, "patience": 3, "best": True}
    notes = adapter.load(TinyModel(), stopped)
    assert notes["held_out"] == recorded

    def refuse(watch: Watch | None) -> str:
        return refusal(run, stopped, watch=watch)

    assert "held_out.patience is 3 there and 2 here" in refuse(
        scripted(stopped, patience=2, best=True)
    )
    assert "held_out.best is True there and False here" in refuse(scripted(stopped, patience=3))
    assert "held_out.best is True there and 'absent' here" in refuse(scripted(stopped))
    other = Watch(held_out=Scripted(stopped, by="another"), patience=3, best=True)
    message = refuse(other)
    assert "held_out.by is 'script' there and 'another' here" in message
    assert "held_out.every is 2 there and 50 here" in message
    # Pictures decide nothing, and a finished run draws none.
    again = scripted(stopped, patience=3, best=True, samples=lambda path: path.unlink())
    assert run(stopped, watch=again) == stopped


def test_what_only_looks_may_change_and_its_best_starts_again(
    tmp_path: Path, straight: Path
) -> None:
    def kill(done: int, *_: object) -> None:
        if done == 9:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, watch=scripted(tmp_path), progress=kill)
    assert checkpoints(tmp_path) == [4, 6, 9]
    low = {step: value - 10 for step, value in PEAK.items()} | {12: -20.0}
    watch = Watch(held_out=Scripted(tmp_path, low, by="another"), held_out_every=2)
    run(tmp_path, watch=watch)
    # The other's step 4 had more, and does not count.
    assert checkpoints(tmp_path) == [10, 12]
    assert (tmp_path / FILE).read_bytes() == (straight / FILE).read_bytes()


def test_who_no_longer_looks_keeps_the_best(tmp_path: Path) -> None:
    def kill(done: int, *_: object) -> None:
        if done == 7:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, watch=scripted(tmp_path), progress=kill)
    run(tmp_path)
    assert checkpoints(tmp_path) == [4, 9, 12]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_mi_that_is_not_finite_is_no_best(tmp_path: Path, value: float) -> None:
    values = {2: value, 4: 1.0, 6: value, 8: value}
    out = tmp_path / "run"
    run(out, watch=scripted(out, values, patience=2, best=True))
    assert measured(out) == {2: None, 4: 1.0, 6: None, 8: None}
    assert equal(out, run(tmp_path / "4", iterations=4))
    never = tmp_path / "never"
    watch = scripted(never, {2: value, 4: value}, patience=1, best=True)
    assert "finite at no step" in refusal(run, never, watch=watch, iterations=4)
    assert not (never / FILE).exists()


def test_held_out_prompts_are_not_trained_on(tmp_path: Path) -> None:
    watch = scripted(tmp_path / "new")
    watch.held_out.prompts = ("something else", "prompt 3")
    message = refusal(run, tmp_path / "new", watch=watch)
    assert "1 held-out prompts are trained on, such as 'prompt 3'" in message
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"held_out_every": 0}, "held_out_every is 0"),
        ({"validation_steps": 0}, "validation_steps is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"patience": 3}, "patience is asked for without held-out prompts"),
        ({"best": True}, "best is asked for without held-out prompts"),
        ({"log_to": "paper"}, "'paper' is not known: choose one of tensorboard, wandb"),
    ],
)
def test_a_mistake_is_named(options: dict[str, Any], words: str) -> None:
    assert words in refusal(Watch, **options)


def test_two_processes_stop_at_the_same_step(tmp_path: Path, stopped: Path) -> None:
    """Only the first one measures; the other one learns that it is over, and does not wait."""
    assert run_script("watched_run.py", [str(tmp_path)], 2) == 0
    assert measured(tmp_path) == measured(stopped)
    assert len(lines(tmp_path)) == 10
    a, b = load_file(tmp_path / FILE), load_file(stopped / FILE)
    assert max(float((a[key] - b[key]).abs().max()) for key in a) < 1e-5
