import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_build import PER_PART, POOL, PROMPTS, SETTINGS, build, fake, pool, tree, writer

from mitune.core.errors import UserError
from mitune.sets import FineTuningSet, SetWriter

HERE = Path(__file__).parent


def refusal(out: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        writer(out, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_parts_appear_whole_and_finished_prompts_follow(tmp_path: Path) -> None:
    with writer(tmp_path) as target:
        seen = []
        for candidate in pool():
            target.add(candidate)
            seen.append(target.finished_prompts())
        assert target.complete
        assert target.pending_prompts() == []
    block = PER_PART * POOL
    whole = len(PROMPTS) // PER_PART * PER_PART
    expected = [(n + 1) // block * PER_PART for n in range(whole * POOL)]
    assert seen == [*expected, *[whole] * (POOL - 1), len(PROMPTS)]


def test_bytes_do_not_depend_on_the_order_of_arrival(tmp_path: Path) -> None:
    build(tmp_path / "ordered")
    candidates = pool()
    random.Random(5).shuffle(candidates)
    with writer(tmp_path / "shuffled") as target:
        for candidate in candidates:
            target.add(candidate)
            target.add(candidate)
    assert tree(tmp_path / "shuffled") == tree(tmp_path / "ordered")


def test_a_part_finished_out_of_turn_is_pending_no_more(tmp_path: Path) -> None:
    with writer(tmp_path) as target:
        for candidate in pool([2, 3]):
            target.add(candidate)
        assert target.finished_prompts() == 0
        assert target.pending_prompts() == [0, 1, 4, 5, 6]
        assert not target.complete


def test_candidates_of_finished_parts_are_ignored(tmp_path: Path) -> None:
    build(tmp_path)
    whole = tree(tmp_path)
    with writer(tmp_path) as target:
        for candidate in pool():
            target.add(candidate)
    assert tree(tmp_path) == whole


def test_close_publishes_nothing_unfinished(tmp_path: Path) -> None:
    with writer(tmp_path) as target:
        for candidate in pool([0, 1, 2]):
            target.add(candidate)
    assert sorted(tree(tmp_path)) == [".lock", "README.md", "parts/part-00000.parquet", "run.json"]
    with pytest.raises(ValueError, match="after close"):
        target.add(fake(2, 0))


def test_pools_of_different_sizes(tmp_path: Path) -> None:
    sizes = [1, 4, 2, 3, 1, 1, 2]
    given = [fake(p, index) for p, size in enumerate(sizes) for index in range(size)]
    random.Random(3).shuffle(given)
    with writer(tmp_path, pools=sizes) as target:
        with pytest.raises(ValueError, match="candidate 1 of prompt 0"):
            target.add(fake(0, 1))
        for candidate in given:
            target.add(candidate)
        assert target.complete
    back = FineTuningSet.open(tmp_path)
    table = back.table()
    assert table["prompt_index"].to_pylist() == [p for p, n in enumerate(sizes) for _ in range(n)]
    assert table["candidate"].to_pylist() == [index for n in sizes for index in range(n)]
    assert len(back.selected()) == sum(min(size, 2) for size in sizes)
    assert [len(rows) for rows in back.terms(range(7)).values()] == sizes
    summary = back.summary()
    assert (summary["finished_prompts"], summary["short_prompts"]) == (7, 3)
    whole = tree(tmp_path)
    with writer(tmp_path, pools=sizes) as target:  # goes on, and has nothing to do
        assert target.complete
    assert tree(tmp_path) == whole
    assert "pools" in refusal(tmp_path)
    assert "pools" in refusal(tmp_path, pools=[1, 4, 2, 3, 1, 2, 2])


@pytest.mark.parametrize("pools", [[4] * 6, [4] * 6 + [0], [4] * 6 + [5]])
def test_pools_that_do_not_fit(tmp_path: Path, pools: list[int]) -> None:
    with pytest.raises(ValueError, match="expected 7 sizes of 1 to 4"):
        writer(tmp_path / "new", pools=pools)
    assert not (tmp_path / "new").exists()


def test_settings_prompts_and_environment_round_trip(tmp_path: Path) -> None:
    settings = {**SETTINGS, "nothing": None, "tiny": 1e-300, "text": 'é"\n'}
    prompts = ['a "cube"', "línea\nnueva, 图", "  spaces  "]
    environment = {"torch": "2.13.0"}
    writer(tmp_path, settings=settings, prompts=prompts, environment=environment).close()
    back = FineTuningSet.open(tmp_path)
    assert back.settings == settings
    assert back.prompts == prompts
    assert back.environment == environment
    # Another machine may go on: the environment is recorded, not compared.
    writer(tmp_path, settings=settings, prompts=prompts, environment={"torch": "9"}).close()
    assert FineTuningSet.open(tmp_path).environment == environment


def test_notes_are_told_and_decide_nothing(tmp_path: Path) -> None:
    writer(tmp_path / "a", notes={"model": "/one/path"}).close()
    assert FineTuningSet.open(tmp_path / "a").notes == {"model": "/one/path"}
    writer(tmp_path / "a", notes={"model": "another"}).close()  # no refusal, and the first stays
    assert FineTuningSet.open(tmp_path / "a").notes == {"model": "/one/path"}
    build(tmp_path / "b")
    with writer(tmp_path / "a") as target:
        for candidate in pool(target.pending_prompts()):
            target.add(candidate)
    parts = "parts/part-00000.parquet"
    assert (tmp_path / "a" / parts).read_bytes() == (tmp_path / "b" / parts).read_bytes()


@pytest.mark.parametrize("name", ["backend", "attention", "slots", "batch"])
def test_rounding_is_settled_by_the_first_part(tmp_path: Path, name: str) -> None:
    one, other = ({"settings": {**SETTINGS, name: value}} for value in ("one", "other"))
    writer(tmp_path, **one).close()
    writer(tmp_path, **other).close()  # nothing is there yet that was rounded the first way
    assert FineTuningSet.open(tmp_path).settings[name] == "other"
    changed = {"settings": {**SETTINGS, name: "one", "steps": 6}}
    assert "steps is 5 there and 6 here" in refusal(tmp_path, **changed)
    with writer(tmp_path, **other) as target:
        for candidate in pool([0, 1]):
            target.add(candidate)
    assert f"{name} is 'other' there and 'one' here" in refusal(tmp_path, **one)


def test_what_an_earlier_version_did_not_record_is_unknown(tmp_path: Path) -> None:
    earlier = {**SETTINGS, "source": {"name": "/pictures", "sha256": "00"}}
    writer(tmp_path, settings=earlier).close()
    now = {**SETTINGS, "source": {"sha256": "00"}, "batch": 64, "model_parts": {"vae": {"w": "1"}}}
    with writer(tmp_path, settings=now) as target:
        assert target.unrecorded == ["model_parts", "batch"]
    now["source"] = {"sha256": "11"}
    assert "source.sha256 is '00' there and '11' here" in refusal(tmp_path, settings=now)


@pytest.mark.parametrize("value", [(1, 2), math.nan, {1: 2}, Path("x")])
def test_settings_that_do_not_round_trip_are_a_programming_error(
    tmp_path: Path, value: Any
) -> None:
    with pytest.raises(ValueError, match=r"settings\['odd'\]"):
        writer(tmp_path / "set", settings={"odd": value})
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            {"settings": {**SETTINGS, "guidance": 5.0, "steps": 6}},
            ["guidance is 7.5 there and 5.0 here", "steps is 5 there and 6 here"],
        ),
        (
            {"settings": {**SETTINGS, "model": {"name": "fake", "fingerprint": "aa"}}},
            ["model.fingerprint is '00ff' there and 'aa' here"],
        ),
        ({"settings": {**SETTINGS, "new": 1}}, ["new is absent there and 1 here"]),
        ({"settings": {"steps": 5}}, ["guidance is 7.5 there and absent here"]),
        ({"settings": {**SETTINGS, "steps": {"a": 1}}}, ["steps is 5 there and given here;"]),
        ({"prompts": PROMPTS[:-1]}, ["7 prompts there and 6 here"]),
        ({"prompts": [*PROMPTS[:2], "other", *PROMPTS[3:]]}, ["prompt 2 is '2 red cubes' there"]),
        ({"prompts": PROMPTS[::-1]}, ["prompt 0 is '0 red cubes' there and '6 red cubes' here"]),
        ({"keep": 1}, ["keep is 2 there and 1 here"]),
        ({"candidates": 9}, ["candidates is 4 there and 9 here"]),
        ({"rule": "worst"}, ["rule is 'mi' there and 'worst' here"]),
        ({"prompts_per_part": 3}, ["prompts_per_part is 2 there and 3 here"]),
    ],
)
def test_resume_with_other_settings_is_refused(
    tmp_path: Path, changes: dict[str, Any], lines: list[str]
) -> None:
    build(tmp_path)
    whole = tree(tmp_path)
    message = refusal(tmp_path, **changes)
    assert message.startswith(f"{tmp_path} holds a set built otherwise: ")
    assert all(line in message for line in lines)
    assert tree(tmp_path) == whole


def test_of_another_model_one_difference_is_told(tmp_path: Path) -> None:
    of: list[dict[str, Any]] = [
        {**SETTINGS, "model_fingerprint": name, "model_parts": {"vae": {"channels": number}}}
        for number, name in enumerate(("a", "b"))
    ]
    writer(tmp_path, settings=of[0]).close()
    message = refusal(tmp_path, settings={**of[1], "steps": 6})
    assert "model_fingerprint is 'a' there and 'b' here, steps is 5 there and 6 here;" in message
    assert "model_parts" not in message
    of[1]["model_fingerprint"] = "a"
    assert "model_parts.vae.channels is 0 there" in refusal(tmp_path, settings=of[1])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"keep": 0}, "cannot keep 0 of 4"),
        ({"keep": 5}, "cannot keep 5 of 4"),
        ({"rule": "best"}, "unknown selection rule 'best'; expected one of mi, random, worst"),
        ({"prompts": []}, "no prompts"),
        ({"prompts": ["a", "b", "a"]}, r"prompt 'a' is given twice \(positions 0 and 2, from 0\)"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        writer(tmp_path / "set", **changes)
    assert not (tmp_path / "set").exists()


def test_a_folder_with_something_else_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "'thesis.tex' but no fine-tuning set" in refusal(tmp_path)
    assert sorted(tree(tmp_path)) == ["thesis.tex"]
    (tmp_path / "run.json").write_text(json.dumps({"format": "tuning"}))
    assert "describes no fine-tuning set" in refusal(tmp_path)
    assert sorted(tree(tmp_path)) == ["run.json", "thesis.tex"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is a file; expected a folder" in refusal(tmp_path / "file")
    assert "cannot write" in refusal(tmp_path / "file" / "set")


def test_second_writer_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    with writer(tmp_path):
        assert "is being written by another run" in refusal(tmp_path)
        script = "import sys, pathlib, fake_build; fake_build.build(pathlib.Path(sys.argv[1]))"
        command = [sys.executable, "-c", script, str(tmp_path)]
        other = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
        assert "is being written by another run" in other.stderr
    build(tmp_path)
    assert FineTuningSet.open(tmp_path).complete


def test_a_failed_open_lets_go_of_the_folder(tmp_path: Path) -> None:
    build(tmp_path)
    part = tmp_path / "parts" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-40])
    assert f"{part} is truncated or damaged" in refusal(tmp_path)
    part.unlink()
    build(tmp_path)
    assert FineTuningSet.open(tmp_path).complete


FULL_DISK = """
import resource, sys
from pathlib import Path
from fake_build import fake, pool, writer
from mitune.core.errors import UserError
out = Path(sys.argv[1])
with writer(out) as target:
    for candidate in pool([0, 1]):
        target.add(candidate)
    size = (out / "parts" / "part-00000.parquet").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
    try:
        for candidate in pool([2, 3]):
            target.add(candidate)
    except UserError as error:
        print(error)
"""


def test_a_disk_that_takes_no_more_leaves_the_finished_parts(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        f"cannot write {tmp_path}/parts/part-00001.parquet (File too large)"
    )
    assert done.stdout.count("\n") == 1
    assert sorted(tree(tmp_path / "parts")) == ["part-00000.parquet"]
    assert FineTuningSet.open(tmp_path).summary()["finished_prompts"] == PER_PART
    build(tmp_path)
    build(tmp_path.with_name("whole"))
    assert tree(tmp_path) == tree(tmp_path.with_name("whole"))


@pytest.mark.parametrize(
    ("candidate", "line"),
    [
        (fake(0, POOL), "got candidate 4 of prompt 0"),
        (fake(0, 0, prompt_index=7), "of prompt 7"),
        (fake(0, 0, prompt="other"), "got prompt 'other' at 0; expected '0 red cubes'"),
    ],
)
def test_a_candidate_of_another_set_is_a_programming_error(
    tmp_path: Path, candidate: Any, line: str
) -> None:
    with writer(tmp_path) as target, pytest.raises(ValueError, match=line):
        target.add(candidate)


def test_two_seeds_for_one_prompt_are_a_programming_error(tmp_path: Path) -> None:
    with SetWriter(tmp_path, {}, PROMPTS[:1], 2, 1) as target:
        target.add(fake(0, 0))
        with pytest.raises(ValueError, match=r"got seeds \[11, 12\]"):
            target.add(fake(0, 1, seed=12))


def test_non_finite_candidates_are_recorded_counted_and_lose(tmp_path: Path) -> None:
    spoilt = fake(1, 1).latent.clone()
    spoilt[0, 0, 0] = math.nan
    candidates = [
        fake(0, 0, score=math.nan),
        fake(0, 1, score=2.0),
        fake(0, 2, score=1.0),
        fake(1, 0, score=math.inf),
        fake(1, 1, score=9.0, latent=spoilt),
        fake(1, 2, score=3.5e38 * 10),
        fake(2, 0, score=1.0),
        fake(2, 1, score=1.0),
        fake(2, 2, score=3.0),
    ]
    with SetWriter(tmp_path, {}, PROMPTS[:3], 3, 2) as target:
        for candidate in candidates:
            target.add(candidate)
    back = FineTuningSet.open(tmp_path)
    rows = back.table()
    assert rows["finite"].to_pylist() == [False, True, True, False, False, False, True, True, True]
    assert rows["rank"].to_pylist() == [2, 0, 1, 0, 1, 2, 1, 2, 0]
    assert rows["selected"].to_pylist() == [
        *(False, True, True),
        *(False, False, False),
        *(True, False, True),
    ]
    scores = rows["score"].to_pylist()
    assert math.isnan(scores[0])
    assert scores[3:6] == [math.inf, 9.0, math.inf]
    summary = back.summary()
    assert (summary["kept"], summary["short_prompts"], summary["non_finite"]) == (4, 1, 4)
    assert summary["score_mean_all"] == pytest.approx((2 + 1 + 1 + 1 + 3) / 5)
    assert summary["score_mean_kept"] == pytest.approx((2 + 1 + 1 + 3) / 4)
    assert all(torch.isfinite(latent).all() for _, latent in back.selected())


def test_what_systems_put_into_a_folder_is_not_in_the_way(tmp_path: Path) -> None:
    for name in (".DS_Store", "._x", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).touch()
    for name in ("lost+found", "@eaDir"):
        (tmp_path / name).mkdir()
    with SetWriter(tmp_path, {}, ["a"], 1, 1):
        pass
    assert (tmp_path / "run.json").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "photo.png").touch()
    with pytest.raises(UserError, match=r"holds 'photo.png' but no fine-tuning set"):
        SetWriter(other, {}, ["a"], 1, 1)
