"""Pages from templates, in which every value is escaped."""

from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response


def render(
    request: Request, package: str, name: str, title: str, status: int = 200, **values: Any
) -> Response:
    """A page that no cache keeps.

    Args:
        request: tells the path that all pages are below.
        package: has the template in its ``templates``; base.html, style.css and fault.html are
            those of ``mitune.web``.
        name: of the template.
        title: of the page.
        status: of HTTP.
        values: of the template.
    """
    values |= {"title": title, "root": request.scope.get("root_path", "")}
    content = _templates(package).get_template(name).render(**values)
    return HTMLResponse(content, status, headers={"Cache-Control": "no-store"})


def fault(request: Request, error: HTTPException, title: str) -> Response:
    """The page for a request that was refused, with the reason if it is one of ours."""
    own = error.detail != HTTPStatus(error.status_code).phrase
    told = error.detail if own else "There is no such page, or this cannot be done with it."
    return render(request, "mitune.web", "fault.html", title, error.status_code, told=told)


async def style(_: Request) -> Response:
    """The style sheet that all pages name."""
    content = files("mitune.web").joinpath("templates", "style.css").read_text(encoding="utf-8")
    return PlainTextResponse(content, media_type="text/css")


@cache
def _templates(package: str) -> Environment:
    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("mitune.web")]),
        autoescape=True,
        undefined=StrictUndefined,
    )
