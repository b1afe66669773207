"""The page: a form, and below it what was drawn. It needs no JavaScript and asks nothing from
elsewhere."""

import base64
import re
import time
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mitune.core.errors import UserError
from mitune.core.prompts import visible
from mitune.trying.drawer import Candidate, Drawer, Shown
from mitune.web.pages import fault, render, style
from mitune.web.requests import Below, Headers, read_form

MOST = 16
"""Candidates of one request."""
LONGEST = 1000
"""Characters of a prompt."""
_WAITING = 4
"""Requests that may wait for the one that is being drawn; more are told to come again."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a form asks for."""

    prompt: str
    count: int
    seed: int


def application(drawer: Drawer, title: str, *, count: int, below: str = "") -> ASGIApp:
    """The ASGI application.

    Args:
        drawer: draws, one request after the other.
        title: of the page.
        count: candidates, unless the form has another number.
        below: path that the page is below, such as /try.
    """
    pages = _Pages(drawer, title, count)
    made = Starlette(
        routes=[
            Route("/", pages.form),
            Route("/", pages.drawn, methods=["POST"]),
            Route("/style.css", style),
        ],
        exception_handlers={HTTPException: pages.fault, Exception: _failed},  # type: ignore[dict-item]
    )
    made.router.redirect_slashes = False
    return Headers(Below(made, below))


class _Pages:
    def __init__(self, drawer: Drawer, title: str, count: int) -> None:
        self._drawer, self._title, self._count = drawer, title, count
        self._under_way = 0

    async def form(self, request: Request) -> Response:
        return self._page(request, Asked(prompt="", count=self._count, seed=0))

    async def drawn(self, request: Request) -> Response:
        # Another site's page must not make this machine draw.
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise HTTPException(403, "This form came from another page.")
        asked = read_asked(await read_form(request))
        if self._under_way > _WAITING:
            raise HTTPException(503, "Too many pictures are asked for: try again in a while.")
        self._under_way += 1
        start = time.perf_counter()
        try:
            found = await run_in_threadpool(
                self._drawer.draw, asked.prompt, asked.count, asked.seed
            )
        except UserError as error:
            raise HTTPException(400, str(error)) from None
        finally:
            self._under_way -= 1
        seconds = time.perf_counter() - start
        return self._page(request, asked, found, f"{seconds:.1f} s")

    async def fault(self, request: Request, error: HTTPException) -> Response:
        return fault(request, error, self._title)

    def _page(
        self, request: Request, asked: Asked, found: list[Candidate] | None = None, took: str = ""
    ) -> Response:
        return render(
            request,
            "mitune.trying",
            "try.html",
            self._title,
            asked=asked,
            most=MOST,
            longest=LONGEST,
            compares=self._drawer.compares,
            took=took,
            found=None if found is None else [_told(each) for each in found],
        )


def read_asked(form: dict[str, list[str]]) -> Asked:
    """What a form asks for.

    Raises:
        HTTPException: a field is missing, twice there, or out of range.
    """
    if set(form) != {"prompt", "count", "seed"} or any(len(each) > 1 for each in form.values()):
        raise HTTPException(400, "Expected a prompt, a number of pictures, and a seed.")
    prompt = " ".join(form["prompt"][0].split())
    if not visible(prompt) or len(prompt) > LONGEST:
        raise HTTPException(400, f"Expected a prompt of 1 to {LONGEST} characters.")
    count, seed = form["count"][0], form["seed"][0]
    if not re.fullmatch("[0-9]{1,2}", count) or not 1 <= int(count) <= MOST:
        raise HTTPException(400, f"Expected 1 to {MOST} pictures.")
    if not re.fullmatch("[0-9]{1,9}", seed):
        raise HTTPException(400, "Expected a seed of 0 to 999999999.")
    return Asked(prompt=prompt, count=int(count), seed=int(seed))


def _told(candidate: Candidate) -> dict[str, Any]:
    tuned = None if candidate.tuned is None else _picture(candidate.tuned)
    return {"number": candidate.number, "base": _picture(candidate.base), "tuned": tuned}


def _picture(shown: Shown) -> dict[str, str]:
    data = base64.b64encode(shown.png).decode()
    return {"source": f"data:image/png;base64,{data}", "nats": f"{shown.nats:.1f}"}


async def _failed(_: Request, error: Exception) -> Response:
    return PlainTextResponse("Something failed here: the program's own output says what.", 500)
