"""What people answered, against values from the literature and by hand."""

import csv
from pathlib import Path

import pytest

from mitune.survey.answers import export
from mitune.survey.krippendorff import alpha
from mitune.survey.metrics import with_metrics
from mitune.survey.pool import Item, Pool
from mitune.survey.results import (
    agreement,
    answers_of,
    pairs,
    plain,
    results_page,
    share,
    shares,
    text,
)
from mitune.survey.rounds import Round
from mitune.survey.store import Survey


def survey(
    number: int, *chosen: str, people: str = "all", kind: str = "metrics", **changes
) -> Survey:
    """One with a round for each of ``chosen``, such as "AB": A and B were chosen of A, B, C."""
    shown = tuple((name, f"{name}.png") for name in "CAB")
    values = {
        "id": f"s{number}",
        "pool": "colour",
        "kind": kind,
        "people": people,
        "begun": "2026-11-28T10:00:00.000000+00:00",
        "finished": f"2026-11-28T10:00:0{number}.000012+00:00",
        "options": ("A", "B", "C"),
        "rounds": tuple(
            Round(category="x", prompt=f"it's {i}", shown=shown) for i in range(len(chosen))
        ),
        "answers": {i: tuple(each) for i, each in enumerate(chosen)},
    }
    return Survey(**{**values, **changes})


def test_krippendorffs_own_example() -> None:
    """Four observers, twelve units, some values missing: nominal alpha is 0.743 (Krippendorff 2011,
    example C)."""
    rows = [
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    ]
    columns = zip(*(row.split() for row in rows), strict=True)
    assert alpha([[v for v in column if v != "."] for column in columns]) == pytest.approx(
        0.743, abs=5e-4
    )


def test_alpha_of_agreement_of_chance_and_of_nothing() -> None:
    assert alpha([[1, 1], [0, 0], [1, 1, 1]]) == 1
    assert alpha([[1, 1], [1, 1]]) == 1
    assert alpha([[1], [0]]) is None
    assert alpha([]) is None
    assert alpha([[0, 1], [0, 1]]) == pytest.approx(-0.5)  # 1 - 4 / ((16 - 8) / 3)


def test_wilsons_interval() -> None:
    """8 of 10: centre (8 + 1.92) / (10 + 3.84), by the formula of Wilson (1927)."""
    found = share(8, 10)
    z = 1.959964
    centre = (8 + z**2 / 2) / (10 + z**2)
    half = z / (10 + z**2) * (8 * 2 / 10 + z**2 / 4) ** 0.5
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert str(found) == "80.0 % [49.0, 94.3]"
    assert str(share(0, 0)) == ""


def test_pairs_are_tested_exactly_and_corrected() -> None:
    surveys = [survey(0, *["A"] * 8, "B", "AB", ""), survey(1, "C")]
    answers = answers_of(surveys)
    first, second, third = pairs(answers, ("A", "B", "C"))
    assert (first.first, first.second, first.only_first, first.only_second) == ("A", "B", 8, 1)
    # Binomial, two-sided: 2 (1 + 9) / 2^9; A and C: 9 against 1, 2 (1 + 10) / 2^10; B and C: 2, 1.
    assert second.p == pytest.approx(3 * 22 / 1024)
    assert first.p == pytest.approx(max(3 * 22 / 1024, 2 * 20 / 512))
    assert third.p == 1


def test_unfinished_surveys_are_not_counted() -> None:
    surveys = [survey(0, "A", "AB"), survey(1, "C", "C", finished=None, answers={0: ("C",)})]
    answers = answers_of(surveys)
    assert len(answers) == 2
    assert (shares(answers, "A").count, shares(answers, "C").count) == (2, 0)
    told = plain(surveys)["colour"]
    assert (told["finished"], told["unfinished"]) == (1, 1)
    assert told["alpha"] is None
    assert "A                    100.0 %" in text(surveys)
    assert text([]) == "no surveys yet"


def test_two_people_agree_about_the_same_prompt() -> None:
    assert agreement(answers_of([survey(0, "A", "B"), survey(1, "A", "B")])) == 1


def test_the_page_has_every_table() -> None:
    surveys = [survey(0, "A", "AB", people="students"), survey(1, "", "ABC", people="staff")]
    made = results_page(surveys)
    assert "people: students" in made
    assert '<th scope="row">A and B and C</th><td class="num">1</td>' in made
    assert '<th scope="row">none</th><td class="num">1</td>' in made
    assert "McNemar" in made
    assert "There are no surveys yet" in results_page([])
    assert "0 finished surveys" in results_page([survey(0, "A", finished=None)])


def test_csv_files_are_as_the_authors_have_them(tmp_path: Path) -> None:
    surveys = [survey(3, "A", "BC", people="students"), survey(1, "A", finished=None)]
    (path,) = export(surveys, tmp_path)
    assert (
        path
        == tmp_path
        / "metrics_comparison"
        / "colour"
        / "students"
        / "answer_20261128_100003_000012.csv"
    )
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["prompt", "A", "B", "C"],
        ['"it\'s 0"', "True", "False", "False"],
        ['"it\'s 1"', "False", "True", "True"],
    ]
    (path,) = export([survey(2, "B", kind="methods")], tmp_path)
    assert path.read_text().splitlines()[0] == "category,prompt,A,B,C"


def test_metrics_agree_with_people_as_counted_by_hand() -> None:
    """Of two people one chose A and both C, none B: shares 0.5, 0, 1. The first metric orders the
    three so, the second the other way round, the third not at all."""
    shown = tuple((name, f"{name}.png") for name in "ABC")
    surveys = [survey(0, "AC"), survey(1, "C"), survey(2, "ABC", finished=None)]
    scores = {
        "right": {"A.png": 2.0, "B.png": 1.0, "C.png": 3.0},
        "wrong": {"A.png": 2.0, "B.png": 3.0, "C.png": 1.0},
        "blind": {"A.png": 1.0, "B.png": 1.0, "C.png": 1.0},
        "partly": {"B.png": 1.0, "C.png": 3.0, "unseen.png": 9.0},
    }
    images = {name: [image] for name, image in shown}
    item = Item(category="x", prompt="it's 0", images=images, scores=scores)
    pool = Pool(folder=Path("colour"), kind="metrics", options=("A", "B", "C"), items=(item,))
    found = {metric.name: metric.tau.mean for metric in with_metrics(surveys, pool)}
    assert found == {"right": pytest.approx(1), "wrong": pytest.approx(-1), "partly": 1}
    assert "agreement of metrics with people" in results_page(surveys, [pool])
    assert [m["name"] for m in plain(surveys, [pool])["colour"]["metrics"]] == list(found)
    assert "agreement of metrics" not in results_page(surveys)


def test_no_category_stands_for_all(tmp_path: Path) -> None:
    rounds = tuple(
        Round(category=name, prompt=name, shown=(("A", "a"), ("B", "b"), ("C", "c")))
        for name in ("all", "people: x")
    )
    made = results_page([survey(0, "A", "", rounds=rounds)])
    row = made.partition('<th scope="row">A</th>')[2].partition("</tr>")[0]
    assert "50.0 %" in row.partition("</td>")[0]
    assert "category: all" in made
