"""Listen on an address, tell it, and serve an application there."""

import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from mitune.core.errors import UserError
from mitune.core.reading import reason

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_GRACE = 5
"""Seconds that a server which is to end waits for requests that have begun."""


def check_server(extra: str) -> None:
    """Whether what serves is installed.

    Raises:
        UserError: it is not; ``extra`` is mitune's extra that brings it.
    """
    try:
        import jinja2  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise UserError(
            f"starlette, jinja2 or uvicorn is not installed: pip install 'mitune[{extra}]'"
        ) from None


def check_below(path: str) -> str:
    """The path that all pages are below.

    Raises:
        UserError: it is none, such as one that names another host.
    """
    if path and not _PATH.fullmatch(path):
        raise UserError(f"--root-path is {path}: expected a path such as /ask")
    return path


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve on, so that links are told only once they lead somewhere.

    Raises:
        UserError: the address is none of this machine's, or in use.
    """
    if not 0 <= port < 2**16:
        raise UserError(f"--port is {port}: expected 1 to 65535, or 0 for any that is free")
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"{host}, port {port}, cannot be served ({reason(error)}): expected an address of this "
            "machine and a port that is free; give another --port"
        ) from None


def address_of(listening: socket.socket, below: str) -> str:
    """The address of a server's pages."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{below}"


def serve(application: "ASGIApp", listening: socket.socket, *, behind_proxy: bool) -> None:
    """Serve until interrupted or terminated; ``behind_proxy`` believes X-Forwarded headers, which
    anyone may send where no proxy sets them."""
    import uvicorn

    config = uvicorn.Config(
        application,
        proxy_headers=behind_proxy,
        forwarded_allow_ips="*" if behind_proxy else None,
        server_header=False,
        access_log=False,  # it would keep people's addresses
        log_level="warning",
        timeout_graceful_shutdown=_GRACE,
    )
    # uvicorn ends for the signal, and then sends it again.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
