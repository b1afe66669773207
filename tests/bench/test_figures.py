"""Figures on disk: each line at once, read again by the same setting, refused for another."""

import json
import math

import pytest

from mitune.bench.figures import Figures
from mitune.core.errors import UserError

SETTING = {"steps": 3, "prompts": ["a", "b"]}


def test_a_figure_is_on_disk_at_once_and_is_not_measured_again(tmp_path, capsys):
    path = tmp_path / "figures.jsonl"
    figures = Figures(path, SETTING)
    assert figures.measured("one", lambda: {"seconds": 1.5, "losses": [math.nan]}) == {
        "seconds": 1.5,
        "losses": [None],
    }
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"setting": SETTING}, {"name": "one", "seconds": 1.5, "losses": [None]}]
    assert "one ..." in capsys.readouterr().err
    again = Figures(path, SETTING)
    assert again.measured("one", lambda: pytest.fail("it is known"))["seconds"] == 1.5
    again.put("one", ratio=2.0)
    assert Figures(path, SETTING).get("one") == {"seconds": 1.5, "losses": [None], "ratio": 2.0}


def test_a_run_that_was_stopped_while_it_wrote_goes_on(tmp_path):
    path = tmp_path / "figures.jsonl"
    Figures(path, SETTING).put("one", seconds=1.0)
    with path.open("a") as file:
        file.write('{"name": "two", "sec')
    figures = Figures(path, SETTING)
    assert figures.get("two") is None
    figures.put("two", seconds=2.0)
    assert Figures(path, SETTING).get("two") == {"seconds": 2.0}
    assert Figures(path, SETTING).get("one") == {"seconds": 1.0}


def test_figures_of_another_setting_are_not_mixed_in(tmp_path):
    path = tmp_path / "figures.jsonl"
    Figures(path, SETTING)
    with pytest.raises(UserError, match=r"another setting.*steps is 3 there and 4 here"):
        Figures(path, SETTING | {"steps": 4})
    path.write_text("no JSON\n")
    with pytest.raises(UserError, match="expected JSON lines of an earlier run"):
        Figures(path, SETTING)
    with pytest.raises(UserError, match="cannot be written"):
        Figures(tmp_path / "no" / "folder.jsonl", SETTING)


def test_without_a_file_nothing_is_written(tmp_path):
    figures = Figures(None, SETTING)
    assert figures.measured("one", lambda: {"seconds": 1.0}) == {"seconds": 1.0}
    assert figures.get("one") == {"seconds": 1.0}
