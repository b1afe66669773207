"""What comes in, read with care, and what every answer says about itself."""

import asyncio
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_POST = 8192
"""Bytes of a form; the largest honest one has some hundred."""
_FIELDS = 100
_PATIENCE = 30.0
"""Seconds that a form may take to come."""
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Headers:
    """What every answer says about itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, told if scope["type"] == "http" else send)


class Below:
    """Pages below a path, whether or not a proxy takes the path away."""

    def __init__(self, app: ASGIApp, root: str) -> None:
        self._app, self._root = app, root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._root and scope["type"] == "http":
            path = scope["path"]
            inside = path == self._root or path.startswith(f"{self._root}/")
            scope = {
                **scope,
                "root_path": self._root,
                "path": path if inside else self._root + path,
            }
        await self._app(scope, receive, send)


async def read_form(request: Request) -> dict[str, list[str]]:
    """The fields of a small form.

    Raises:
        HTTPException: it is too large, of another kind, or not text.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("", "application/x-www-form-urlencoded"):
        raise HTTPException(415, "This form is of a kind that this page does not take.")
    content = b""
    try:
        async with asyncio.timeout(_PATIENCE):
            async for part in request.stream():
                content += part
                if len(content) > LARGEST_POST:
                    raise HTTPException(413, "This form is too large.")
    except TimeoutError:
        raise HTTPException(408, "This form did not come whole.") from None
    try:
        return parse_qs(
            content.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(content),
            max_num_fields=_FIELDS,
        )
    except ValueError:
        raise HTTPException(400, "This form cannot be read.") from None
