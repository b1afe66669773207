"""The parts of a report: charts against hand values, sheets, galleries."""

import base64
import hashlib
import io
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mitune.report.charts import histogram, lines, strip, ticks
from mitune.report.comparison_sections import gained, paired, plus_minus
from mitune.report.gallery import Shown, gallery
from mitune.report.page import Section, number, page, render
from mitune.report.set_sections import _path
from mitune.report.sheets import address_of, address_of_file, sheet, thumbnail
from mitune.report.source import flat


def picture(address: str) -> Image.Image:
    kind, _, content = address.partition(";base64,")
    assert kind == "data:image/webp"
    return Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (-3, 4, [-2, 0, 2, 4]),
        (0.0021, 0.0034, [0.0025, 0.003]),
        (5, 5, [5]),
    ],
)
def test_ticks_are_round_numbers_within_the_range(
    low: float, high: float, expected: list[float]
) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_a_line_goes_through_its_points_and_leaves_out_what_is_not_finite() -> None:
    drawn = lines({"loss": [(0, 0.0), (1, math.nan), (2, 1.0)]}, x="step", y="loss")
    (points,) = re.findall(r'<polyline class="line l0" points="([^"]*)"', drawn)
    assert points == "64.0,216.0 628.0,26.0"  # the corners of the frame
    assert 'aria-label="loss by step: loss from 0 to 1"' in drawn
    assert lines({"loss": [(0, math.nan)]}, x="step", y="loss") == ""


def test_several_lines_differ_by_more_than_colour_and_are_named() -> None:
    drawn = lines({"a": [(0, 0), (1, 1)], "<b>": [(0, 1), (1, 0)]}, x="x", y="y")
    assert "line l0" in drawn
    assert "line l1" in drawn
    assert "&lt;b&gt;</text>" in drawn
    assert "<b>" not in drawn


def test_a_histogram_shows_shares() -> None:
    drawn = histogram({"all": [0.0, 0.1, 0.9, math.inf], "kept": [0.9]}, x="nats", bins=2)
    first, second = re.findall(r'<polygon class="b[01]" points="([^"]*)"', drawn)
    # Two of three in the left half, one in the right; the highest bar, of the kept one, is 1.
    heights = [216 - float(pair.split(",")[1]) for pair in first.split()]
    assert heights == pytest.approx([0, 190 * 2 / 3, 190 * 2 / 3, 190 / 3, 190 / 3, 0], abs=0.1)
    assert max(216 - float(pair.split(",")[1]) for pair in second.split()) == 190
    assert "all: 3 values, mean 0.3333; kept: 1 values, mean 0.9" in drawn


def test_a_strip_marks_the_kept() -> None:
    drawn = strip([1.0, 3.0, 2.0], [False, True, False], label='a "quoted" prompt')
    assert drawn.count('class="other"') == 3
    assert '<circle class="best" cx="632.0"' in drawn
    assert "a &#34;quoted&#34; prompt" in drawn


def test_a_sheet_has_a_place_for_each_picture() -> None:
    colours = ["red", "lime", "blue"]
    made = sheet([Image.new("RGB", (8, 8), c) for c in colours], 20, columns=2)
    assert (made.columns, made.width, made.height) == (2, 40, 40)
    shown = picture(made.address).convert("RGBA")
    for place, colour in enumerate(colours):
        at = (place % 2 * 20 + 10, place // 2 * 20 + 10)
        near = Image.new("RGB", (1, 1), colour).getpixel((0, 0))
        assert shown.getpixel(at)[:3] == pytest.approx(near, abs=12)
    assert shown.getpixel((30, 30))[3] == 0
    assert shown.getpixel((0, 0))[3] == 0


def test_a_thumbnail_keeps_its_shape_and_small_ones_are_not_blurred() -> None:
    wide = Image.new("RGB", (4, 2), "red")
    wide.putpixel((0, 0), (0, 0, 255))
    small = thumbnail(wide, 16)
    assert small.size == (16, 8)
    assert set(
        small.get_flattened_data() if hasattr(small, "get_flattened_data") else small.getdata()
    ) == {(0, 0, 255), (255, 0, 0)}
    assert thumbnail(Image.new("RGB", (300, 100)), 30).size == (30, 10)
    assert picture(address_of(wide)).convert("RGB").getpixel((0, 0)) == (0, 0, 255)


def test_a_gallery_shows_the_best_first_and_escapes_prompts() -> None:
    drawing = Image.new("RGB", (8, 8), "red")
    pool = [
        Shown(score=1.0, kept=False, picture=drawing),
        Shown(score=9.0, kept=True, picture=drawing),
        Shown(score=math.nan, kept=False, picture=drawing),
        Shown(score=30.0, kept=False, pruned=True, picture=drawing),
    ]
    made = gallery([('<script>alert("x")</script>', pool)], unit="nats", large=True)
    assert "<script>" not in made
    assert "&lt;script&gt;" in made
    told = re.findall(r"<li[^>]*><span>([^<]*)", made)
    assert told == ["9.0", "1.0", "30.0 pruned", "not finite"]
    assert made.count('<li class="kept">') == 1
    assert "4 candidates, 1 kept; 9.0 to 1.0 nats; 1 dropped early" in made
    assert 'data-best="9.0" data-spread="8.0"' in made
    assert "<svg" not in made  # every candidate is pictured


def test_a_gallery_tells_the_scores_of_candidates_without_pictures() -> None:
    pool = [
        Shown(score=1.0, kept=False),
        Shown(score=2.0, kept=True, picture=Image.new("RGB", (8, 8))),
    ]
    made = gallery([("a", pool)], unit="nats", large=False)
    assert len(re.findall("<li[ >]", made)) == 1
    assert made.count("<circle") == 3
    nothing = gallery([("a", [Shown(score=math.nan, kept=False)])], unit="nats", large=False)
    assert "1 candidates, 0 kept" in nothing
    assert "<img" not in nothing


def test_a_page_allows_its_own_script_alone() -> None:
    made = page(
        "a & b", [Section(title="<one>", body=render("facts.html", values={"a": 1}, after=[]))]
    ).decode()
    script = re.search(r"<script>(.*)</script>", made, re.DOTALL)
    assert script is not None
    wanted = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{wanted}'" in made
    assert "default-src 'none'" in made
    assert "<title>a &amp; b</title>" in made
    assert "&lt;one&gt;" in made


def test_what_is_aside_comes_last() -> None:
    body = render("facts.html", values={}, after=[])
    made = page(
        "t", [Section(title="source", body=body, aside=True), Section(title="table", body=body)]
    )
    assert made.index(b">table</h2>") < made.index(b">source</h2>")


def test_numbers_and_differences_for_people() -> None:
    assert [number(v) for v in (None, 12345, 0.123456, "text", True)] == [
        "",
        "12,345",
        "0.1235",
        "text",
        "True",
    ]
    assert plus_minus(0.5164, 0.0261) == "0.516 ± 0.026"
    assert plus_minus(None, 0.1) == ""
    assert gained(0.046, 0.015) == "+0.046 ± 0.015 (3.1 s.e.)"
    assert gained(0.1, 0.0) == "+0.100 ± 0.000"
    assert flat({"a": {"b": 1, "c": [1, 2]}, "d": None}) == {"a.b": 1, "a.c": "[1, 2]", "d": "None"}


def test_a_study_has_value_and_error_in_one_cell() -> None:
    heads, rows = paired(
        [{"model": "mi", "value": 0.5, "value_se": 0.1, "gain": None, "gain_se": None}]
    )
    assert heads == ["model", "value", "gain"]
    assert rows == [["mi", "0.500 ± 0.100", ""]]


def test_a_large_file_becomes_small_and_a_small_one_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (800, 400), "red").save(path)
    assert picture(address_of_file(path, 100)).size == (100, 50)
    kept = address_of_file(path, 800).removeprefix("data:image/png;base64,")
    assert base64.b64decode(kept) == path.read_bytes()


def test_the_largest_terms_do_not_overflow() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = _path(np.full((4, 2), 3e38, dtype=np.float32), [True, True, False, False])
    assert "kept from 3e+38 to 3e+38; others from 3e+38 to 3e+38" in drawn


def test_scores_by_category_need_two_categories() -> None:
    from mitune.report.category_section import category_section

    rows = [(0, 1.0, True), (0, 2.0, False), (1, 3.0, True), (2, 9.0, True)]
    kinds = {0: "colour", 1: "<shape>"}
    (section,) = category_section("Scores by category", rows, kinds, "nats")
    body = str(section.body)
    assert body.count("<figure>") == 2
    assert "colour: 2 candidates." in body
    assert "&lt;shape&gt;: 1 candidates." in body
    assert "all: 2 values, mean 1.5; kept: 1 values, mean 1" in body
    assert category_section("t", rows, {0: "colour", 1: "colour"}, "nats") == []
