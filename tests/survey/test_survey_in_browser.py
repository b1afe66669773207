"""A whole survey in a browser: on a phone, with JavaScript and without."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import faults, opened, page
from pictures import METHODS, pool
from survey_load import free_port, server

from mitune.cli import main
from mitune.survey.store import Store

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened() as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder, port = tmp_path_factory.mktemp("survey"), free_port()
    answers = folder / "answers.sqlite"
    running = server(pool(folder).folder, answers, port)
    try:
        yield f"http://127.0.0.1:{port}/survey/methods/everyone", answers
    finally:
        running.terminate()
        running.wait()


@pytest.mark.parametrize("script", [True, False], ids=["javascript", "without javascript"])
def test_a_whole_survey_on_a_phone(
    browser: Any, served: tuple[str, Path], script: bool, tmp_path: Path, capsys
) -> None:
    link, answers = served
    before = {survey.id for survey in Store(answers).surveys()}
    with page(browser, java_script_enabled=script, **PHONE) as shown:
        shown.goto(link)
        if script:
            assert faults(shown) == []
        shown.get_by_role("button", name="Begin").tap()
        chosen = []
        for number in range(1, 5):
            shown.get_by_text(f"Page {number} of 4").wait_for()
            if script:
                assert faults(shown) == []
                assert shown.evaluate("document.documentElement.scrollWidth") <= 390
                loaded = "[...document.images].every(i => i.naturalWidth > 0)"
                shown.wait_for_function(loaded)
            place = number % 3
            shown.get_by_label(f"picture {place + 1}").first.tap()
            chosen.append(place)
            name = "Next" if number < 4 else "Finish"
            shown.get_by_role("button", name=name).tap()
        shown.get_by_role("heading", name="Thank you").wait_for()
        assert shown.context.cookies() == []
    (survey,) = (s for s in Store(answers).surveys() if s.id not in before)
    assert survey.finished is not None
    main(["survey", "export", "--answers", str(answers), "--out", str(tmp_path)])
    files = sorted((tmp_path / "methods_comparison" / "methods" / "everyone").iterdir())
    with files[-1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, asked, place in zip(rows, survey.rounds, chosen, strict=True):
        assert row["prompt"] == repr(asked.prompt)
        assert [name for name in METHODS if row[name] == "True"] == [asked.shown[place][0]]
    capsys.readouterr()


def test_keys_alone_take_a_survey(browser: Any, served: tuple[str, Path]) -> None:
    with page(browser) as shown:
        shown.goto(served[0])
        shown.keyboard.press("Tab")
        shown.keyboard.press("Enter")
        shown.get_by_text("Page 1 of 4").wait_for()
        shown.keyboard.press("Tab")
        shown.keyboard.press("Space")
        assert shown.get_by_role("checkbox").first.is_checked()
        for _ in range(3):
            shown.keyboard.press("Tab")
        shown.keyboard.press("Enter")
        shown.get_by_text("Page 2 of 4").wait_for()
        shown.get_by_role("link", name="Back").click()
        assert shown.get_by_role("checkbox").first.is_checked()


def test_the_results_and_faults_are_pages_too(browser: Any, served: tuple[str, Path]) -> None:
    link, answers = served
    key = answers.with_name(answers.name + ".results-key").read_text()
    with page(browser, color_scheme="dark") as shown:
        shown.goto(link.replace("/survey/methods/everyone", f"/results/{key}"))
        assert shown.get_by_role("heading", name="results").count() == 1
        assert faults(shown) == []
