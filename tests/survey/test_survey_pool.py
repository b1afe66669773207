"""Pools of pictures for a survey."""

import json
import os
import random
from pathlib import Path

import pytest
from pictures import METHODS, authors, pool
from PIL import Image

from mitune.cli import main
from mitune.core.errors import UserError
from mitune.survey.pool import IMAGES, LIST, Pool, write_pool
from mitune.survey.rounds import draw_rounds
from mitune.survey.sources import named, of_authors, of_runs, scores_of


def test_the_authors_folders_become_a_pool(tmp_path: Path, capsys) -> None:
    folder = authors(tmp_path / "samples")
    out = tmp_path / "pool"
    main(["survey", "pool", "--authors", str(folder), "--out", str(out)])
    assert f"pool {out}: 6 prompts, 18 pictures of GORS, MI, VNL" in capsys.readouterr().out
    found = Pool.read(out)
    assert (found.kind, found.options) == ("methods", METHODS)
    assert {item.category for item in found.items} == {"kind0", "kind1"}
    first = found.items[0]
    assert first.prompt == "a big thing 0"
    (name,) = first.images["MI"]
    copy, original = found.files[name], folder / "kind0" / "MI" / "a big thing 0_000000.png"
    assert copy.read_bytes() == original.read_bytes()
    # No name tells whose a picture is, and the folder holds pictures alone.
    assert not any(method in path.name for path in found.files.values() for method in METHODS)
    assert {p.name for p in (out / IMAGES).iterdir()} == set(found.files)


def test_metrics_have_no_categories(tmp_path: Path) -> None:
    found = pool(tmp_path, "metrics", prompts=12)
    assert {item.category for item in found.items} == {""}
    assert len(found.items) == 12


def test_runs_become_a_pool(tmp_path: Path) -> None:
    for name, count in (("base", 2), ("tuned", 1)):
        place = tmp_path / name / "colour" / "samples"
        place.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (number, count, 0)).save(place / f"a cat_{number:06d}.png")
        (place / ".hidden_0.png").write_text("what a desktop leaves")
        (place / "notes.txt").write_text("not a picture")
    (tmp_path / "base" / "colour" / "samples" / "a dog_000002.png").write_bytes(
        (tmp_path / "base" / "colour" / "samples" / "a cat_000000.png").read_bytes()
    )
    runs = named([f"base={tmp_path / 'base'}", f"tuned={tmp_path / 'tuned'}"])
    made, left_out = write_pool(tmp_path / "pool", "methods", of_runs(runs))
    assert left_out == ["a dog"]
    (item,) = made.items
    assert (item.category, item.prompt) == ("colour", "a cat")
    assert {name: len(images) for name, images in item.images.items()} == {"base": 2, "tuned": 1}
    plain = tmp_path / "drawn" / "samples"
    plain.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(plain / "a cat_000000.png")
    assert list(of_runs({"x": plain.parent})) == [("", "a cat")]


def test_scores_of_benchmarks_come_with_their_pictures(tmp_path: Path) -> None:
    runs = {}
    for name in ("base", "tuned"):
        place = tmp_path / name / "colour"
        (place / "samples").mkdir(parents=True)
        # The names' order is not that of the numbers.
        for number, prompt in enumerate(("b", "b", "a")):
            colour = (number, len(name), 7)
            Image.new("RGB", (8, 8), colour).save(place / "samples" / f"{prompt}_{number:06d}.png")
        (place / "scores").mkdir()
        (place / "scores" / "clip.json").write_text('{"scores": [0.5, 0.25, 1.0]}')
        runs[name] = tmp_path / name
    made, _ = write_pool(tmp_path / "pool", "methods", of_runs(runs), scores_of(runs))
    first, second = made.items
    assert (first.prompt, set(first.scores["clip"].values())) == ("a", {1.0})
    assert [second.scores["clip"][image] for image in second.images["base"]] == [0.5, 0.25]
    assert Pool.read(tmp_path / "pool").items == made.items
    (place / "scores" / "clip.json").write_text('{"scores": [null, NaN, 1.0]}')
    assert len(scores_of(runs)["clip"]) == 3 + 1  # what was not finite is left out
    (place / "scores" / "clip.json").write_text('{"scores": [0.5]}')
    with pytest.raises(UserError, match="expected the scores of the pictures beside it"):
        scores_of(runs)


def test_rounds_are_two_of_each_category_or_ten_and_all_is_shuffled(tmp_path: Path) -> None:
    methods = pool(tmp_path, "methods", categories=3, prompts=5)
    rounds = draw_rounds(methods, random.Random(0))
    assert sorted(r.category for r in rounds) == [
        "kind0",
        "kind0",
        "kind1",
        "kind1",
        "kind2",
        "kind2",
    ]
    assert len({(r.category, r.prompt) for r in rounds}) == 6
    for asked in rounds:
        assert sorted(option for option, _ in asked.shown) == list(METHODS)
    many = [draw_rounds(methods, random.Random(seed)) for seed in range(40)]
    assert {r[0].category for r in many} == {"kind0", "kind1", "kind2"}
    assert {r[0].shown[0][0] for r in many} == set(METHODS)
    metrics = pool(tmp_path, "metrics", prompts=12)
    assert len({r.prompt for r in draw_rounds(metrics, random.Random(0))}) == 10
    assert len(draw_rounds(metrics, random.Random(0), each=99)) == 12


def test_what_cannot_be_a_pool_is_refused(tmp_path: Path) -> None:
    one = tmp_path / "one" / "MI"
    one.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(one / "a cat_0.png")
    with pytest.raises(UserError, match="of 1 metrics are given: expected at least two"):
        write_pool(tmp_path / "pool", "metrics", of_authors(tmp_path / "one", "metrics"))
    other = tmp_path / "one" / "B <b>"
    other.mkdir()
    Image.new("RGB", (8, 8)).save(other / "a cat_0.png")
    with pytest.raises(UserError, match="name 'B <b>' cannot be used"):
        write_pool(tmp_path / "pool", "metrics", of_authors(tmp_path / "one", "metrics"))
    with pytest.raises(UserError, match="has no pictures"):
        of_authors(tmp_path / "one", "methods")
    with pytest.raises(UserError, match="has no pictures"):
        of_runs({"x": tmp_path})
    for given, message in (
        (["x"], "expected NAME=FOLDER"),
        (["x=nothing"], "nothing is no folder"),
        ([f"x={tmp_path}", f"x={tmp_path}"], "has x twice"),
    ):
        with pytest.raises(UserError, match=message):
            named(given)
    other.rename(tmp_path / "one" / "B")
    (tmp_path / "one" / "B" / "a cat_0.png").write_text("<svg onload=alert(1)>")
    with pytest.raises(UserError, match="cannot be read"):
        write_pool(tmp_path / "pool", "metrics", of_authors(tmp_path / "one", "metrics"))
    (tmp_path / "one" / "B" / "a cat_0.png").rename(tmp_path / "one" / "B" / "a dog_0.png")
    with pytest.raises(UserError, match="no prompt has pictures of all of B, MI"):
        write_pool(tmp_path / "pool", "metrics", of_authors(tmp_path / "one", "metrics"))


def test_names_and_pictures_that_cannot_be_shown_are_refused(tmp_path: Path) -> None:
    folder = authors(tmp_path / "a")
    place = folder / "kind0" / "MI"
    Image.new("RGB", (8, 8)).save(place / "notes.png")
    with pytest.raises(UserError, match="has no number"):
        of_authors(folder, "methods")
    (place / "notes.png").unlink()
    whole = (place / "a big thing 0_000000.png").read_bytes()
    half = whole[: len(whole) // 2]
    (place / "a big thing 0_000000.png").write_bytes(half)
    with pytest.raises(UserError, match="expected a whole JPEG, PNG or WebP"):
        write_pool(tmp_path / "pool", "methods", of_authors(folder, "methods"))
    assert not (tmp_path / "pool").exists()
    os.rename(place / "a big thing 0_000000.png", os.fsencode(place) + b"/\xff_0.png")
    with pytest.raises(UserError, match="is not UTF-8"):
        of_authors(folder, "methods")


def test_another_pool_is_not_written_over_and_the_same_one_is(tmp_path: Path) -> None:
    found = of_authors(authors(tmp_path / "a"), "methods")
    first, _ = write_pool(tmp_path / "pool", "methods", found)
    assert write_pool(tmp_path / "pool", "methods", found)[0].digest == first.digest
    del found["kind0", "a big thing 0"]
    with pytest.raises(UserError, match="holds another pool"):
        write_pool(tmp_path / "pool", "methods", found)
    assert {p.name for p in (tmp_path / "pool" / IMAGES).iterdir()} == set(first.files)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["items"][0]["images"]["MI"].append("../../secret"),
        lambda content: content["items"][0]["images"].pop("MI"),
        lambda content: content.update(format="x"),
        lambda content: content.update(items=[]),
        lambda content: content.update(kind="x"),
        lambda content: content.update(items=3),
        lambda content: content["items"][0].update(category=[]),
        lambda content: content["items"][0].update(prompt=3),
        lambda content: content["items"][0]["images"].update(MI=[]),
        lambda content: content["items"][0].update(scores={"clip": {"a": None}}),
        lambda content: content["items"][0].update(scores="abc"),
        lambda content: content.update(options=["MI", "MI"]),
    ],
)
def test_a_damaged_list_is_refused(tmp_path: Path, change) -> None:
    made = pool(tmp_path)
    content = json.loads((made.folder / LIST).read_text())
    change(content)
    (made.folder / LIST).write_text(json.dumps(content))
    with pytest.raises(UserError, match="cannot be read"):
        Pool.read(made.folder)


def test_a_missing_list_or_picture_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no pool\.json"):
        Pool.read(tmp_path)
    made = pool(tmp_path)
    next(iter(made.files.values())).unlink()
    with pytest.raises(UserError, match="is missing"):
        Pool.read(made.folder)


@pytest.mark.skipif(
    "MITUNE_SURVEY_SAMPLES" not in os.environ,
    reason="MITUNE_SURVEY_SAMPLES names no folder of the authors' sample pictures",
)
def test_the_authors_own_samples(tmp_path: Path) -> None:
    folder = Path(os.environ["MITUNE_SURVEY_SAMPLES"])
    found = of_authors(folder / "methods_comparison" / "samples", "methods")
    made, left_out = write_pool(tmp_path / "methods", "methods", found)
    assert (len(made.options), len(made.items), left_out) == (8, 6, [])
    assert len({item.category for item in made.items}) == 6
    found = of_authors(folder / "metrics_comparison" / "samples", "metrics")
    made, _ = write_pool(tmp_path / "metrics", "metrics", found)
    assert (made.options, len(made.items)) == (("blip", "hps", "mi"), 5)
