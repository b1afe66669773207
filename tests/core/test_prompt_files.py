"""Prompt lists as people keep them, and the published ones where they are at hand."""

import os
import threading
from pathlib import Path

import pytest

from mitune.cli import main
from mitune.core.errors import UserError
from mitune.core.prompts import check_prompts, read_categories, read_prompts
from mitune.engine.stream import generate
from mitune.methods.align import align
from mitune.methods.build import build_set
from mitune.scoring.score import score

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


INSIDE = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"
"""Where ``str.splitlines`` splits, and no editor does."""


def test_a_line_ends_with_lf_crlf_or_cr_alone(tmp_path):
    path = tmp_path / "p.txt"
    odd = INSIDE.join("abcdefghi")
    path.write_bytes(f"{odd}\na dog\r\na cat\ra cow".encode())
    assert read_prompts(path) == [odd, "a dog", "a cat", "a cow"]


@pytest.mark.parametrize(
    ("content", "prompts", "told"),
    [
        ("Prompt\tCategory\n\ta cat\na dog\tAnimals\n", ["a cat", "a dog"], "Prompt\\tCategory"),
        ("id\tTEXT\n1\ta cat\n2\ta dog\n", ["a cat", "a dog"], "columns of 2 lines"),
        ("id\tprompt\n1\ta cat\n2\t\n", ["a cat"], "1 lines without a prompt"),
        ("prompts\r\na cat\r\n", ["a cat"], 'the header "prompts"'),
        ("a cat\tsitting\n", ["a cat"], "the other columns of 1 lines"),
        ("text\n", ["text"], None),
        ("a prompt\ta text\n", ["a prompt"], "the other columns"),
        ("\ta cat\t\n \t\n", ["a cat"], None),
        ("a cat\n\n\u200b\n\u00a0\n\ufeffa dog\ufeff\n", ["a cat", "a dog"], None),
        ("\U0001f431\n\u4e00\u53ea\u732b\n", ["\U0001f431", "\u4e00\u53ea\u732b"], None),
    ],
)
def test_columns_headers_and_what_is_left_out(tmp_path, caplog, content, prompts, told):
    path = tmp_path / "p.txt"
    path.write_bytes(content.encode())
    assert read_prompts(path) == prompts
    if told is None:
        assert not caplog.records
    else:
        (record,) = caplog.records
        assert told in record.getMessage()
        assert record.getMessage().isprintable()


def test_what_a_limit_leaves_out_is_told(tmp_path, caplog):
    path = tmp_path / "p.txt"
    path.write_text("a\nb\na\nc\n")
    assert read_prompts(path, limit=2) == ["a", "b"]
    assert caplog.messages == [f"{path}: left out 1 repeated prompts, 1 prompts beyond the limit"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"\n \n\t\n", "is empty"),
        ("\u200b\n\ufeff\u2060\n".encode(), "is empty"),
        (b"Prompt\tCategory\n", "is empty"),
        (b"\xff\xfe\x00\xd8", r"no UTF-8 text \(UTF-16\)"),
        ("a cat\n".encode("utf-16"), r"no UTF-8 text \(UTF-16\)"),
        ("a cat\n".encode("utf-32"), r"no UTF-8 text \(UTF-32\)"),
        ("a cat\n".encode("utf-16-le"), "line 1 holds a zero character .* in UTF-16"),
        ("un café\n".encode("latin-1"), "no UTF-8 text .*can't decode"),
        (b"a cat\n\xed\xa0\x80\n", "no UTF-8 text"),
        (b"a cat\nb\0d\n", "line 2 holds a zero character"),
        (b"PK\x03\x04\x00\x00\xff", "no UTF-8 text"),
    ],
)
def test_what_is_no_prompt_list(tmp_path, content, words):
    path = tmp_path / "p.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    with pytest.raises(UserError, match="limit is 0"):
        read_prompts(path, limit=0)


def test_pipes_are_read_and_nothing_is_waited_for(tmp_path):
    with pytest.raises(UserError, match="it is a folder"):
        read_prompts(tmp_path)
    with pytest.raises(UserError, match="it is a pipe, socket or device"):
        read_prompts("/dev/zero")
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(UserError, match="is empty"):
        read_prompts(path)
    # As a shell gives <(command): the reader waits for one who has begun to write.
    reading, writing = os.pipe()

    def write():
        with open(writing, "w") as file:
            file.write("a cat\na dog\n")

    writer = threading.Timer(0.2, write)
    writer.start()
    assert read_prompts(f"/dev/fd/{reading}") == ["a cat", "a dog"]
    writer.join()
    os.close(reading)


def test_a_very_long_prompt_is_one_prompt(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("a cat " * 200_000)
    assert read_prompts(path) == [("a cat " * 200_000).strip()]


BROKEN = {
    "prompt 2 of 2 is no Unicode text at character 3": "b \udcff",
    "prompt 2 of 2 holds a zero character": "b\0",
    "prompt 2 of 2 is bytes b'b'": b"b",
}


@pytest.mark.parametrize("words", BROKEN)
def test_a_prompt_that_is_no_text_is_found_before_the_first_pass(
    shapes_model, tmp_path, monkeypatch, words
):
    check_prompts(["a", ""])
    monkeypatch.setattr(type(shapes_model), "encode_prompts", None)
    prompts = ["a", BROKEN[words]]
    for run in (
        lambda: check_prompts(prompts),
        lambda: score(shapes_model, prompts, [None, None]),
        lambda: next(generate(shapes_model, prompts)),
        lambda: build_set(shapes_model, prompts, tmp_path / "s"),
        lambda: align(shapes_model, prompts, tmp_path / "s"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            run()
        assert str(caught.value).isprintable()
    assert not list(tmp_path.rglob("*.json"))


def test_bytes_of_the_command_line_that_are_no_text(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["score", str(tmp_path / "a.png"), "--prompt", os.fsdecode(b"caf\xe9")])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert r"--prompt is 'caf\udce9': expected text in UTF-8" in line


@pytest.mark.skipif(not COMPBENCH, reason="MITUNE_T2I_COMPBENCH names no folder of prompt lists")
def test_the_published_lists():
    for path in sorted(Path(COMPBENCH).glob("*_*.txt")):
        found = read_prompts(path)
        expected = 700 if path.stem.endswith("train") else 300
        # A few lists repeat a prompt.
        assert 0.95 * expected <= len(found) <= expected, path.name
        assert all(prompt == prompt.strip() and "\t" not in prompt for prompt in found)


def test_one_text_is_no_list_of_prompts():
    with pytest.raises(UserError, match="prompts is one text, 'a red circle': expected a list"):
        check_prompts("a red circle")


def test_categories_of_a_table(tmp_path):
    path = tmp_path / "c.tsv"
    path.write_text("Category\tprompt\ncolour\ta red ball\nshape\t a cube \n\tx\nshape\n")
    assert read_categories(path) == {"a red ball": "colour", "a cube": "shape"}
    for text in ("prompt\na\n", "category\tname\na\tb\n", "a red ball\n"):
        path.write_text(text)
        with pytest.raises(UserError, match="tells no categories"):
            read_categories(path)
