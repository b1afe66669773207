"""``mitune set`` and ``mitune build --shard``."""

import json
from pathlib import Path

import pytest

from mitune.cli.program import main


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    main([*words, "--json"])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_shares_are_built_merged_checked_and_compacted(capsys, tmp_path: Path, quick_preset):
    build = ("build", "--limit", "10", "--candidates", "2", "--quiet")
    for number in (0, 1):
        share = tmp_path / str(number)
        made = told(capsys, *build, "--out", str(share), "--shard", f"{number}/2")
        assert not made["complete"]
        assert (share / "command.yaml").exists() == (number == 0)
    assert "shard" not in (tmp_path / "0" / "command.yaml").read_text()
    shares = [str(tmp_path / "0"), str(tmp_path / "1")]
    merged = told(capsys, "set", "merge", *shares, "--out", str(tmp_path / "set"))
    assert merged["complete"]
    assert merged["copied"] == 2
    found = told(capsys, "set", "info", str(tmp_path / "set"))
    assert (found["parts"], found["missing"], found["model"]) == (2, [], "shapes")
    assert told(capsys, "set", "info", shares[1])["missing"] == [0]
    out = str(tmp_path / "one")
    told(capsys, "set", "compact", str(tmp_path / "set"), "--out", out)
    assert told(capsys, "set", "verify", out)["rows"] == 20
    assert told(capsys, "set", "gc", str(tmp_path / "set"))["removed"] == []

    part = tmp_path / "set" / "parts" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    assert "damaged or foreign: 1, first" in refusal(capsys, "set", "verify", str(part.parents[1]))
    assert told(capsys, "set", "verify", str(part.parents[1]), "--remove")["removed"] == [str(part)]
    again = told(capsys, *build, "--out", str(part.parents[1]))
    assert again["complete"]
    assert told(capsys, "set", "verify", str(part.parents[1]))["faults"] == {}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["info"], "folders is missing"),
        (["look", "a"], "what is look: choose one of info"),
        (["info", "a", "b"], "2 folders are given: info expects one"),
        (["info", "nowhere"], "nowhere is no fine-tuning set"),
        (["verify", "a", "--out", "b"], "--out is given with verify"),
        (["merge", "a"], "--out is missing"),
        (["compact", "a"], "--out is missing"),
    ],
)
def test_mistakes_are_one_line(capsys, words, expected):
    assert expected in refusal(capsys, "set", *words)


def test_a_share_that_is_none(capsys, tmp_path: Path):
    words = ["build", "--out", str(tmp_path / "s"), "--limit", "10", "--candidates", "2"]
    assert "expected NUMBER/OF" in refusal(capsys, *words, "--shard", "2")
    assert "NUMBER from 0 to OF - 1" in refusal(capsys, *words, "--shard", "2/2")
    assert "at most as many" in refusal(capsys, *words, "--shard", "2/3", "--quiet")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--workers", "2"], "--workers is given without --ray"),
        (["--ray", "local", "--shard", "0/2"], "--shard and --ray are given"),
        (["--ray", "local", "--workers", "0"], "workers is 0"),
        (["--ray", "local", "--tries", "0"], "tries is 0"),
        (["--ray", "nobody.invalid:1", "--quiet"], "no Ray cluster at nobody.invalid:1"),
        (["--ray", "local", "--model", "nowhere", "--prompts", "P"], "nowhere"),
    ],
)
def test_mistakes_with_a_fleet(capsys, tmp_path: Path, monkeypatch, words, expected):
    monkeypatch.setenv("RAY_worker_niceness", "0")  # its workers give way to others otherwise
    (tmp_path / "prompts.txt").write_text("a red square\n")
    given = [str(tmp_path / "prompts.txt") if word == "P" else word for word in words]
    build = ["build", "--out", str(tmp_path / "s"), "--limit", "1", "--candidates", "2"]
    assert expected in refusal(capsys, *build, *given)
