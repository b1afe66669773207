"""What is shown while something takes long: lines in a log, bars on a terminal."""

import re
import sys

import pytest

from mitune.core import progress


def test_a_line_for_each_thing_that_is_done(capsys):
    with progress.shown(False, "seed 1, mi") as lines:
        lines.candidate(1, 3, 4)
        lines.candidate(1, 4, 4)
        lines.step(1, 1, 2, 0.5)
        lines.step(1, 2, 2, 0.4)
    told = capsys.readouterr().err.splitlines()
    assert [re.sub(r"\d+ s", "N s", line) for line in told] == [
        "seed 1, mi: round 1: candidates: 4 done after N s",
        "seed 1, mi: round 1: tuning: 2 done after N s, loss 0.4000",
    ]


def test_a_line_every_half_minute_with_the_rate_and_the_time_left(capsys):
    now = [0.0]
    begun = []
    lines = progress.Lines(False, started=lambda: begun.append(1), clock=lambda: now[0])
    for done in range(101, 200):  # an earlier run made 100
        now[0] += 2.0
        lines.work("pictures", done, 10_000)
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "pictures: 116 of 10000, 0.5 a second, 5:29:28 left"
    assert len(told) == 6
    assert begun == [1]


def test_what_was_whole_at_once_is_told_once(capsys):
    lines = progress.Lines(False)
    lines.work("pictures", 1, 1)
    assert capsys.readouterr().err.startswith("pictures: 1 done after 0 s")


def test_quiet_shows_none(capsys):
    with progress.shown(True, "seed 1") as lines:
        lines.candidate(1, 4, 4)
    with progress.bars(True) as lines:
        lines.candidate(1, 4, 4)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("terminal", "kind"), [(True, progress.Bars), (False, progress.Lines)])
def test_bars_are_for_terminals(monkeypatch, terminal, kind):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    with progress.bars(False) as made:
        assert type(made) is kind
