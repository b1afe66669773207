"""The report, opened from disk in a browser."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import faults, opened, page
from PIL import Image

from mitune.report.charts import histogram, lines
from mitune.report.gallery import Shown, gallery
from mitune.report.page import Section, render
from mitune.report.page import page as made_page
from mitune.report.sheets import address_of
from mitune.report.source import source

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened() as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with everything that a report can have."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "command.yaml").write_text("verb: align\nout: runs/first\n")
    drawn = random.Random(0)
    scores = [[drawn.gauss(5, 3) for _ in range(12)] for _ in range(4)]
    picture = Image.new("RGB", (32, 32), "#a33")
    pools = [
        (
            f"a {colour} circle",
            [
                Shown(score=s, kept=s == max(each), picture=picture if i < 6 else None)
                for i, s in enumerate(each)
            ],
        )
        for colour, each in zip(("red", "green", "blue", "black"), scores, strict=True)
    ]
    every = [s for each in scores for s in each]
    charts = [
        histogram({"all": every, "kept": [max(each) for each in scores]}, x="nats"),
        lines({"loss": list(enumerate(every)), "smoothed": [(0, 1), (40, 5)]}, x="step", y="loss"),
    ]
    figures = [render("figure.html", content=chart, caption="a chart") for chart in charts]
    address = address_of(picture)
    rows = [["base", "strict", "0.5 ± 0.1", 3], ["tuned", "strict", "0.6 ± 0.1", 4]]
    sections = [
        Section(
            title="Table",
            body=render(
                "table.html", caption="c", heads=["model", "metric", "mean", "n"], rows=rows
            ),
        ),
        Section(title="Charts", body=render("facts.html", values={"steps": 3}, after=figures)),
        Section(
            title="Pictures", body=render("pairs.html", groups=[("a red circle", [[address] * 2])])
        ),
        Section(title="Pools", body=gallery(pools, unit="nats", large=True)),
        Section(title="Source", body=source(folder, {"device": "cpu"}, {"seed": 0})),
    ]
    path = folder / "report.html"
    path.write_bytes(made_page("first", sections))
    return path.as_uri()


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_errors_and_axe_finds_nothing_serious(
    browser: Any, file: str, size: dict[str, int], scheme: str
) -> None:
    with page(browser, viewport=size, color_scheme=scheme) as shown:
        shown.goto(file)
        assert shown.title() == "first"
        shown.locator("summary").first.click()
        assert faults(shown) == []
        # Nothing but what may scroll is wider than the screen.
        assert shown.evaluate("document.documentElement.scrollWidth") <= size["width"]


def test_keys_move_the_line_between_base_and_tuned(browser: Any, file: str) -> None:
    with page(browser) as shown:
        shown.goto(file)
        range_ = shown.get_by_role("slider", name="how much of the base model's picture 1")
        range_.focus()
        for _ in range(3):
            shown.keyboard.press("ArrowRight")
        assert shown.locator(".stack").evaluate("e => e.style.getPropertyValue('--x')") == "53%"


def test_prompts_are_found_and_ordered(browser: Any, file: str) -> None:
    with page(browser) as shown:
        shown.goto(file)
        shown.get_by_label("Find prompts").fill("circle BLUE")
        assert shown.locator(".pool:visible h3").all_text_contents() == ["a blue circle"]
        assert shown.locator("output").inner_text() == "1 of 4 prompts"
        shown.get_by_label("Find prompts").fill("")
        shown.get_by_label("Order").select_option("best score first")
        best = [float(each.get_attribute("data-best")) for each in shown.locator(".pool").all()]
        assert best == sorted(best, reverse=True)
        shown.get_by_label("Order").select_option("of the list")
        assert shown.locator(".pool h3").first.text_content() == "a red circle"


def test_it_can_be_read_without_javascript(browser: Any, file: str) -> None:
    with page(browser, java_script_enabled=False) as shown:
        shown.goto(file)
        assert shown.locator(".pool h3").count() == 4
        assert shown.get_by_role("row").count() == 3


def test_the_page_of_a_run_opens(browser: Any, tmp_path: Path) -> None:
    from mitune.report.write import write_report

    table = [{"model": "base", "metric": "strict", "mean": 0.5, "standard_error": 0.1}]
    table[0] |= {"gain": 0.0, "gain_standard_error": 0.0}
    found = {"prompts": 1, "images": 1, "seeds": [0], "sampler": {"guidance": 1.0}}
    found |= {"adapter": "a", "table": table, "environment": {"versions": {}, "device": "cpu"}}
    (tmp_path / "eval.json").write_text(json.dumps(found))
    with page(browser) as shown:
        shown.goto(write_report([tmp_path]).as_uri())
        assert shown.get_by_role("cell", name="0.500 ± 0.100").count() == 1


def test_what_axe_finds_would_be_seen(browser: Any) -> None:
    with page(browser) as shown:
        shown.set_content("<html lang=en><title>t</title><main><img src='data:,'></main></html>")
        assert any(fault.startswith("image-alt") for fault in faults(shown))
