"""What several processes show on one screen."""

import re

from mitune.core import progress


def test_a_line_for_each_bar_that_would_be_full(capsys):
    with progress.shown(False, "seed 1, mi") as lines:
        lines.candidate(1, 3, 4)
        lines.candidate(1, 4, 4)
        lines.step(1, 1, 2, 0.5)
        lines.step(1, 2, 2, 0.4)
    told = capsys.readouterr().err.splitlines()
    assert [re.sub(r"\d+ s$", "N s", line) for line in told] == [
        "seed 1, mi: round 1: 4 candidates after N s",
        "seed 1, mi: round 1: tuned, 2 steps after N s",
    ]


def test_quiet_shows_none(capsys):
    with progress.shown(True, "seed 1") as lines:
        lines.candidate(1, 4, 4)
    assert capsys.readouterr().err == ""
