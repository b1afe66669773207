"""Surveys and their answers, in an SQLite file. What is acknowledged is on the disk."""

import json
import random
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mitune.core.errors import UserError
from mitune.survey.pool import Pool
from mitune.survey.rounds import Round, draw_rounds

_TABLES = """
CREATE TABLE IF NOT EXISTS survey (
  id TEXT PRIMARY KEY, pool TEXT NOT NULL, kind TEXT NOT NULL, people TEXT NOT NULL,
  begun TEXT NOT NULL, finished TEXT, options TEXT NOT NULL, rounds TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answer (
  survey TEXT NOT NULL REFERENCES survey(id), round INTEGER NOT NULL, chosen TEXT NOT NULL,
  at TEXT NOT NULL, PRIMARY KEY (survey, round));
"""
_WAIT = 30.0
"""Seconds to wait for another writer."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """One survey.

    Attributes:
        id: unguessable; the only thing that leads back to it, and nothing about a person.
        pool, kind: what is compared, by the pool's name.
        people: the group of people whose link was followed.
        begun, finished: UTC, ISO 8601; None while it is not finished.
        options: what is compared, sorted.
        rounds: what is asked.
        answers: for each answered round, by its number from 0, what was chosen.
    """

    id: str
    pool: str
    kind: str
    people: str
    begun: str
    finished: str | None
    options: tuple[str, ...]
    rounds: tuple[Round, ...]
    answers: dict[int, tuple[str, ...]]


class Store:
    """The file of all surveys of a campaign. Every thread has its own connection.

    Raises:
        UserError: the file is none of SQLite's, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._own = path, threading.local()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._writing() as database:
                database.executescript(_TABLES)
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"{path} cannot be used ({error}): expected a new file, or one that mitune survey "
                "serve made"
            ) from error

    def begin(self, pool: Pool, people: str, each: int | None = None) -> str:
        """Draw a survey's rounds, store them, and return its id."""
        rounds = draw_rounds(pool, random.SystemRandom(), each)
        told = [[r.category, r.prompt, [list(pair) for pair in r.shown]] for r in rounds]
        name = secrets.token_urlsafe(16)
        with self._writing() as database:
            database.execute(
                "INSERT INTO survey VALUES (?, ?, ?, ?, ?, NULL, ?, ?)",
                (
                    name,
                    pool.name,
                    pool.kind,
                    people,
                    now(),
                    json.dumps(list(pool.options)),
                    json.dumps(told),
                ),
            )
        return name

    def answer(self, survey: Survey, number: int, chosen: Sequence[str]) -> bool:
        """Store what was chosen in a round, in place of an earlier answer; the survey is finished
        as soon as every round has one.

        Returns:
            False if the survey was finished before: then nothing changes.
        """
        with self._writing() as database:
            done = database.execute("SELECT finished FROM survey WHERE id = ?", (survey.id,))
            if done.fetchone()[0] is not None:
                return False
            database.execute(
                "INSERT OR REPLACE INTO answer VALUES (?, ?, ?, ?)",
                (survey.id, number, json.dumps(sorted(chosen)), now()),
            )
            database.execute(
                "UPDATE survey SET finished = ? WHERE id = ? AND "
                "(SELECT count(*) FROM answer WHERE survey = ?) = ?",
                (now(), survey.id, survey.id, len(survey.rounds)),
            )
        return True

    def find(self, name: str) -> Survey | None:
        """The survey of that id, or None."""
        return next(self._surveys("WHERE id = ?", (name,)), None)

    def surveys(self) -> list[Survey]:
        """All surveys, finished and not, in the order in which they were begun."""
        return list(self._surveys("ORDER BY begun, id", ()))

    def _surveys(self, which: str, values: tuple[str, ...]) -> Iterator[Survey]:
        database = self._connection()
        answers: dict[str, dict[int, tuple[str, ...]]] = {}
        where = "WHERE survey = ?" if values else ""
        for survey, number, chosen in database.execute(
            f"SELECT survey, round, chosen FROM answer {where}", values
        ):
            answers.setdefault(survey, {})[number] = tuple(json.loads(chosen))
        columns = "id, pool, kind, people, begun, finished, options, rounds"
        for row in database.execute(f"SELECT {columns} FROM survey {which}", values):
            name, pool, kind, people, begun, finished, options, rounds = row
            yield Survey(
                id=name,
                pool=pool,
                kind=kind,
                people=people,
                begun=begun,
                finished=finished,
                options=tuple(json.loads(options)),
                rounds=tuple(
                    Round(category=c, prompt=p, shown=tuple((o, i) for o, i in shown))
                    for c, p, shown in json.loads(rounds)
                ),
                answers=answers.get(name, {}),
            )

    def _connection(self) -> sqlite3.Connection:
        made: sqlite3.Connection | None = getattr(self._own, "database", None)
        if made is None:
            made = sqlite3.connect(self._path, timeout=_WAIT, isolation_level=None)
            made.execute("PRAGMA journal_mode = WAL")
            made.execute("PRAGMA synchronous = FULL")  # a commit is on the disk
            self._own.database = made
        return made

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that begins as a writer, so that none fails half-way for another."""
        database = self._connection()
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        if database.in_transaction:  # executescript commits by itself
            database.execute("COMMIT")


def now() -> str:
    """The time, UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
