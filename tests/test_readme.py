"""What the README shows is what the program takes."""

import re
import shlex
from pathlib import Path

import pytest

import mitune
import mitune.core.prompts
from mitune.cli.commands import COMMANDS
from mitune.cli.program import parse

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
COMMAND_LINES = re.findall(r"^    mitune (.+)$", README, re.MULTILINE)


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_command_line_parses(line):
    words = shlex.split(line, comments=True)
    assert isinstance(parse(words), COMMANDS[words[0]])


def test_every_verb_is_shown():
    assert {line.split()[0] for line in COMMAND_LINES} == set(COMMANDS)


def test_the_two_commands_are_make_targets():
    makefile = (ROOT / "Makefile").read_text()
    shown = re.findall(r"^    make (\w+)", README, re.MULTILINE)
    assert shown[:2] == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in shown)


def test_the_two_lines_run(tmp_path, monkeypatch):
    """With the model's work taken out: names and arguments are those of the package."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    called = []
    monkeypatch.setattr(mitune, "load", lambda name: name)
    monkeypatch.setattr(mitune, "align", lambda *given: called.append(given))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code, names)
    assert called == [("shapes", names["prompts"], "runs/first")]
    mitune.core.prompts.check_prompts(names["prompts"])
