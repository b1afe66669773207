"""Prompt lists as people keep them, and the published ones where they are at hand."""

import os
from pathlib import Path

import pytest

from mitune.errors import UserError
from mitune.prompts import read_prompts

COMPBENCH = os.environ.get("MITUNE_T2I_COMPBENCH", "")
"""Folder with the prompt lists of T2I-CompBench (color_train.txt and so on)."""


def test_lines_columns_and_marks(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeffa dog \r\n\r\na cat\tfirst column\tseen\na café\n".encode())
    assert read_prompts(path) == ["a dog", "a cat", "a café"]
    assert read_prompts(path, limit=1) == ["a dog"]


def test_repeated_prompts_are_told(tmp_path, caplog):
    path = tmp_path / "p.txt"
    path.write_text("a dog\na cat\na dog\n")
    assert read_prompts(path) == ["a dog", "a cat"]
    assert "1 repeated prompts" in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist"), (b"\n \n\t\n", "is empty"), (b"\xff\xfe\x00\xd8", "UTF-8")],
)
def test_what_is_no_prompt_list(tmp_path, content, words):
    path = tmp_path / "p.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_prompts(path)
    with pytest.raises(UserError, match="limit is 0"):
        read_prompts(path, limit=0)


@pytest.mark.skipif(not COMPBENCH, reason="MITUNE_T2I_COMPBENCH names no folder of prompt lists")
def test_the_published_lists():
    for path in sorted(Path(COMPBENCH).glob("*_*.txt")):
        found = read_prompts(path)
        expected = 700 if path.stem.endswith("train") else 300
        # A few lists repeat a prompt.
        assert 0.95 * expected <= len(found) <= expected, path.name
        assert all(prompt == prompt.strip() and "\t" not in prompt for prompt in found)
