"""Serve a campaign, and tell its links."""

import secrets
from collections.abc import Sequence
from pathlib import Path

from mitune.core.errors import UserError
from mitune.core.files import atomic_write
from mitune.survey.app import Campaign, application
from mitune.survey.pool import Pool, check_options
from mitune.survey.store import Store

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
        UserError: a pool cannot be read, two have one name, a group's name cannot be in a link, or
            the file cannot be used.
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


def serve(served: Campaign, *, host: str, port: int, root_path: str, behind_proxy: bool) -> None:
    """Serve until interrupted; ``behind_proxy`` believes X-Forwarded headers, which anyone may
    send where no proxy sets them."""
    import uvicorn

    uvicorn.run(
        application(served),
        host=host,
        port=port,
        root_path=root_path,
        proxy_headers=behind_proxy,
        forwarded_allow_ips="*" if behind_proxy else None,
        server_header=False,
        access_log=False,  # addresses of people are nobody's business
        log_level="warning",
    )


def _key(answers: Path) -> str:
    path = answers.with_name(answers.name + _KEY)
    if not path.is_file():
        atomic_write(path, secrets.token_urlsafe(16).encode())
        path.chmod(0o600)
    return path.read_text().strip()
