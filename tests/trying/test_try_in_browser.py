"""The page in a browser: a prompt is typed and drawn, on a phone too."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from browser import faults, opened, page

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DESK = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    command = [sys.executable, "-m", "mitune", "try", "--port", "0", "--steps", "3"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    told = running.stdout.readline()
    assert told.startswith("page: ")
    yield told.removeprefix("page: ").strip()
    running.terminate()
    assert running.wait(30) == 0


@pytest.mark.parametrize("way", [PHONE, DESK], ids=["phone", "desk, dark"])
def test_a_prompt_is_typed_and_drawn(address: str, way: dict[str, Any]) -> None:
    with opened() as browser, page(browser, **way) as shown:
        shown.goto(address)
        assert faults(shown) == []
        shown.get_by_label("Prompt").fill("a red circle")
        shown.get_by_label("Pictures").fill("2")
        shown.get_by_role("button", name="Draw").click()
        shown.get_by_role("heading", name="a red circle").wait_for()
        assert shown.get_by_role("img").count() == 2
        assert shown.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
        assert faults(shown) == []
        width = shown.evaluate("document.documentElement.scrollWidth")
        assert width <= way["viewport"]["width"]
        assert shown.context.cookies() == []
