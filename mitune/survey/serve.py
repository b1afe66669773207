"""Serve a campaign, and tell its links."""

import re
import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mitune.core.errors import UserError
from mitune.core.files import atomic_write
from mitune.core.reading import as_written, read_file, reason
from mitune.survey.app import Campaign, application
from mitune.survey.pool import Pool, check_options
from mitune.survey.store import Store

_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_TOKEN = re.compile(r"[\w-]{16,}")
_GRACE = 5
"""Seconds that a server which is to end waits for requests that have begun."""
_KEY = ".results-key"
"""End of the name of the file, beside that of the answers, with the key of the results' address."""


def campaign(
    pools: Sequence[Path], answers: Path, people: Sequence[str], title: str, each: int | None
) -> Campaign:
    """What a server serves.

    Args:
        pools: folders of ``mitune survey pool``, of different names.
        answers: the SQLite file, old or new.
        people: names of the groups that have a link each.
        title: of the pages.
        each: prompts of each category in a survey; None: the paper's.

    Raises:
        UserError: a pool cannot be read, two have one name, a group's name cannot be in a link, the
            file cannot be used, or has surveys of another pool of the same name.
    """
    found: dict[str, Pool] = {}
    for folder in pools:
        pool = Pool.read(folder)
        if pool.name in found:
            raise UserError(f"two pools are called {pool.name}: rename the folder of one")
        check_options([pool.name])
        found[pool.name] = pool
    if not found:
        raise UserError("no pool is given: expected --pool FOLDER of mitune survey pool")
    if len(set(people)) < len(people) or not people:
        raise UserError("--people has a name twice, or none: expected different names")
    check_options(people)
    if each is not None and each < 1:
        raise UserError(f"each is {each}: expected at least 1 prompt")
    store = Store(answers)
    for pool in found.values():
        store.check(pool)
    return Campaign(
        pools=found, store=store, people=tuple(people), title=title, each=each, key=_key(answers)
    )


def links(served: Campaign, base: str) -> list[str]:
    """What to give to whom, a line each; ``base`` is the server's address."""
    told = [
        f"{pool.name}, for {people}: {base}/survey/{pool.name}/{people}"
        for pool in served.pools.values()
        for people in served.people
    ]
    return [*told, f"results, for yourself: {base}/results/{served.key}"]


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


def serve(served: Campaign, listening: socket.socket, *, below: str, behind_proxy: bool) -> None:
    """Serve until interrupted or terminated; ``behind_proxy`` believes X-Forwarded headers, which
    anyone may send where no proxy sets them."""
    import uvicorn

    config = uvicorn.Config(
        application(served, below),
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


def _key(answers: Path) -> str:
    path = answers.with_name(answers.name + _KEY)
    if not path.exists():
        atomic_write(path, secrets.token_urlsafe(16).encode())
        path.chmod(0o600)
    with as_written(path, "what mitune survey serve wrote; remove it for a new one"):
        key = read_file(path).decode("ascii").strip()
        if not _TOKEN.fullmatch(key):
            raise ValueError("it is no key")
    return key
