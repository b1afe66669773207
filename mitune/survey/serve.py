"""What a server of surveys serves, and its links."""

import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from mitune.core.errors import UserError
from mitune.core.files import atomic_write
from mitune.core.reading import as_written, read_file
from mitune.survey.app import Campaign
from mitune.survey.pool import Pool, check_options
from mitune.survey.store import Store

_TOKEN = re.compile(r"[\w-]{16,}")
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
