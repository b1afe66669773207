"""The system's Chromium, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    "--no-sandbox",  # continuous integration runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def opened() -> Iterator[Any]:
    """A browser; skips the test where there is none, unless MITUNE_BROWSER is "required"."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        if os.environ.get("MITUNE_BROWSER") == "required":
            pytest.fail("no Chromium is installed: apt-get install chromium")
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page(browser: Any, **context: Any) -> Iterator[Any]:
    """A page that must end without an error in its console and without a request to a network."""
    own = browser.new_context(**context)
    errors: list[str] = []
    made = own.new_page()
    made.on("console", lambda message: message.type == "error" and errors.append(message.text))
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.on(
        "request",
        lambda request: (
            request.url.startswith(("file:", "data:", "http://127.0.0.1:"))
            or errors.append(request.url)
        ),
    )
    try:
        yield made
    finally:
        own.close()
    assert errors == []


def faults(shown: Any) -> list[str]:
    """The violations that axe calls serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(shown).response["violations"]
    return [
        f"{each['id']}: {each['help']}: {each['nodes'][0]['html']}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
