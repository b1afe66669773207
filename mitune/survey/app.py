"""The survey's pages: plain forms that need no JavaScript, no cookies, and nothing from elsewhere.

A survey is found again by its address alone, which holds an unguessable id.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Route
from starlette.types import ASGIApp

from mitune.survey.pool import Pool
from mitune.survey.results import results_page
from mitune.survey.store import Store, Survey
from mitune.web.pages import fault, render, style
from mitune.web.requests import Below, Headers, read_form

_MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}
_FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """What a server serves.

    Attributes:
        pools: by name.
        store: of the answers.
        people: groups that have a link each.
        title: of the pages.
        each: prompts of each category in a survey; None: the paper's.
        key: of the address of the results.
    """

    pools: Mapping[str, Pool]
    store: Store
    people: Sequence[str]
    title: str
    each: int | None
    key: str


def application(campaign: Campaign, below: str = "") -> ASGIApp:
    """The ASGI application; its pages are below a path, such as /ask, if one is given."""
    pages = _Pages(campaign)
    routes = [
        Route("/", pages.front),
        Route("/style.css", style),
        Route("/image/{name}", pages.image),
        Route("/results/{key}", pages.results),
        Route("/survey/{pool}/{people}", pages.welcome),
        Route("/survey/{pool}/{people}", pages.begin, methods=["POST"]),
        Route("/round/{survey}/{number}", pages.round),
        Route("/round/{survey}/{number}", pages.answer, methods=["POST"]),
        Route("/thanks/{survey}", pages.thanks),
    ]
    made = Starlette(
        routes=routes,
        exception_handlers={HTTPException: pages.fault, Exception: _failed},  # type: ignore[dict-item]
    )
    made.router.redirect_slashes = False  # to whatever host the request names
    return Headers(Below(made, below))


class _Pages:
    def __init__(self, campaign: Campaign) -> None:
        self._campaign = campaign
        self._files = {name: f for p in campaign.pools.values() for name, f in p.files.items()}

    async def front(self, request: Request) -> Response:
        return self._page(request, "front.html", pools=list(self._campaign.pools.values()))

    async def image(self, request: Request) -> Response:
        path = self._files.get(request.path_params["name"])  # by name alone: no path is made of it
        if path is None:
            raise HTTPException(404, "There is no such picture.")
        # At once and not in parts: a picture is small, and a part costs as much as a whole one.
        try:
            content = await run_in_threadpool(path.read_bytes)
        except OSError:
            raise HTTPException(404, "This picture is gone.") from None
        return Response(content, media_type=_MEDIA[path.suffix], headers=_FOREVER)

    async def welcome(self, request: Request) -> Response:
        pool, _ = self._invited(request)
        return self._page(request, "welcome.html", pool=pool, number=len(pool.options))

    async def begin(self, request: Request) -> Response:
        pool, people = self._invited(request)
        await read_form(request)
        store = self._campaign.store
        name = await run_in_threadpool(store.begin, pool, people, self._campaign.each)
        return self._to(request, f"/round/{name}/1")

    async def round(self, request: Request) -> Response:
        survey, place = await self._place(request)
        if survey.finished is not None:
            return self._to(request, f"/thanks/{survey.id}")
        answered = next((i for i in range(len(survey.rounds)) if i not in survey.answers), place)
        if place > answered:  # no round is left out
            return self._to(request, f"/round/{survey.id}/{answered + 1}")
        asked = survey.rounds[place]
        chosen = survey.answers.get(place, ())
        return self._page(
            request,
            "round.html",
            prompt=asked.prompt,
            place=place + 1,
            of=len(survey.rounds),
            survey=survey.id,
            pictures=[(image, option in chosen) for option, image in asked.shown],
        )

    async def answer(self, request: Request) -> Response:
        survey, place = await self._place(request)
        form = await read_form(request)
        shown = survey.rounds[place].shown
        numbers = form.get("chosen", [])
        known = {str(number): option for number, (option, _) in enumerate(shown)}
        if set(form) - {"chosen"} or len(set(numbers)) < len(numbers) or set(numbers) - set(known):
            raise HTTPException(400, "This answer is about pictures that were not shown.")
        chosen = [known[number] for number in numbers]
        if not await run_in_threadpool(self._campaign.store.answer, survey, place, chosen):
            raise HTTPException(409, "This survey was finished before, and stays as it was.")
        if place + 1 < len(survey.rounds):
            return self._to(request, f"/round/{survey.id}/{place + 2}")
        return self._to(request, f"/thanks/{survey.id}")

    async def thanks(self, request: Request) -> Response:
        survey = await self._survey(request)
        if survey.finished is None:
            return self._to(request, f"/round/{survey.id}/{len(survey.answers) + 1}")
        return self._page(request, "thanks.html", pool=survey.pool, people=survey.people)

    async def results(self, request: Request) -> Response:
        if not secrets.compare_digest(
            request.path_params["key"].encode(), self._campaign.key.encode()
        ):
            raise HTTPException(404, "There is no such page.")
        surveys = await run_in_threadpool(self._campaign.store.surveys)
        body = await run_in_threadpool(results_page, surveys, list(self._campaign.pools.values()))
        return self._page(request, "results.html", body=body)

    async def fault(self, request: Request, error: HTTPException) -> Response:
        return fault(request, error, self._campaign.title)

    def _invited(self, request: Request) -> tuple[Pool, str]:
        pool = self._campaign.pools.get(request.path_params["pool"])
        people = request.path_params["people"]
        if pool is None or people not in self._campaign.people:
            raise HTTPException(404, "There is no such survey. Is the link whole?")
        return pool, people

    async def _survey(self, request: Request) -> Survey:
        found = await run_in_threadpool(self._campaign.store.find, request.path_params["survey"])
        if found is None:
            raise HTTPException(404, "There is no such survey. Is the link whole?")
        return found

    async def _place(self, request: Request) -> tuple[Survey, int]:
        survey = await self._survey(request)
        number = request.path_params["number"]
        place = int(number) - 1 if re.fullmatch("[0-9]{1,4}", number) else -1
        if not 0 <= place < len(survey.rounds):
            raise HTTPException(404, "This survey has no such round.")
        return survey, place

    def _to(self, request: Request, path: str) -> Response:
        return RedirectResponse(request.scope.get("root_path", "") + path, 303)

    def _page(self, request: Request, name: str, status: int = 200, **values: Any) -> Response:
        return render(request, "mitune.survey", name, self._campaign.title, status, **values)


async def _failed(_: Request, error: Exception) -> Response:
    return PlainTextResponse("Something failed here; earlier answers are kept.", 500)
