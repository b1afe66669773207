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
from typing import Any
from urllib.parse import quote

from mitune.core.errors import UserError
from mitune.core.reading import as_written
from mitune.survey.pool import Pool
from mitune.survey.rounds import Round, draw_rounds

_TABLES = """
CREATE TABLE IF NOT EXISTS survey (
  id TEXT PRIMARY KEY, pool TEXT NOT NULL, digest TEXT NOT NULL, kind TEXT NOT NULL,
  people TEXT NOT NULL,
  begun TEXT NOT NULL, finished TEXT, options TEXT NOT NULL, rounds TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answer (
  survey TEXT NOT NULL REFERENCES survey(id), round INTEGER NOT NULL, chosen TEXT NOT NULL,
  at TEXT NOT NULL, PRIMARY KEY (survey, round));
"""
_PROGRAM = 0x6D697375
"""Of this program's files, in SQLite's header."""
_VERSION = 1
_MARKS = ("application_id", "user_version")
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

    Args:
        path: of the file.
        read: only read it; it must exist then.

    Raises:
        UserError: the file is none of this program's, or cannot be used.
    """

    def __init__(self, path: Path, *, read: bool = False) -> None:
        self._path, self._read, self._own = path, read, threading.local()
        if read and not path.is_file():
            raise UserError(f"{path} does not exist: expected the --answers of mitune survey serve")
        with self._usable():
            if read or path.is_file():
                self._check_program(empty=not read)
            if not read:
                path.parent.mkdir(parents=True, exist_ok=True)
                with self._writing() as database:
                    for statement in _TABLES.split(";"):
                        database.execute(statement)
                    database.execute(f"PRAGMA application_id = {_PROGRAM}")
                    database.execute(f"PRAGMA user_version = {_VERSION}")

    def _check_program(self, *, empty: bool) -> None:
        """Raise UserError unless the file is this program's or, with ``empty``, has no tables yet;
        nothing is written."""
        database = _only_read(self._path)
        try:
            (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            found = [database.execute(f"PRAGMA {name}").fetchone()[0] for name in _MARKS]
        finally:
            database.close()
        if found != [_PROGRAM, _VERSION] and (tables or not empty):
            raise UserError(
                f"{self._path} is a database of another program or version: expected a new file, "
                "or one that mitune survey serve made"
            )

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"{self._path} cannot be used ({error}): expected a new file, or one that mitune "
                "survey serve made"
            ) from error

    def check(self, pool: Pool) -> None:
        """Raise UserError if there are surveys of another pool of that name: their pictures are not
        this one's."""
        with self._usable():
            row = self._connection().execute(
                "SELECT 1 FROM survey WHERE pool = ? AND digest != ?", (pool.name, pool.digest)
            )
            if row.fetchone():
                raise UserError(
                    f"{self._path} has surveys of another pool called {pool.name}: give another "
                    "--answers, or rename the pool's folder"
                )

    def begin(self, pool: Pool, people: str, each: int | None = None) -> str:
        """Draw a survey's rounds, store them, and return its id."""
        rounds = draw_rounds(pool, random.SystemRandom(), each)
        told = [[r.category, r.prompt, [list(pair) for pair in r.shown]] for r in rounds]
        name = secrets.token_urlsafe(16)
        with self._writing() as database:
            database.execute(
                "INSERT INTO survey VALUES (?, ?, ?, ?, ?, ?, NULL, ?, ?)",
                (
                    name,
                    pool.name,
                    pool.digest,
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
        columns = "id, pool, kind, people, begun, finished, options, rounds"
        where = "WHERE survey = ?" if values else ""
        with self._usable():
            database = self._connection()
            # One transaction, so that no answer comes between the two.
            database.execute("BEGIN")
            try:
                surveys = database.execute(f"SELECT {columns} FROM survey {which}", values)
                rows = surveys.fetchall()
                chosen = database.execute(
                    f"SELECT survey, round, chosen FROM answer {where}", values
                )
                answers = chosen.fetchall()
            finally:
                database.execute("ROLLBACK")
        with as_written(self._path, "what mitune survey serve wrote"):
            by_survey: dict[str, dict[int, tuple[str, ...]]] = {}
            for survey, number, names in answers:
                by_survey.setdefault(survey, {})[number] = tuple(json.loads(names))
            for row in rows:
                yield _survey(row, by_survey.get(row[0], {}))

    def _connection(self) -> sqlite3.Connection:
        made: sqlite3.Connection | None = getattr(self._own, "database", None)
        if made is None:
            made = self._opened()
            self._own.database = made
        return made

    def _opened(self) -> sqlite3.Connection:
        if self._read:
            return _only_read(self._path)
        made = sqlite3.connect(self._path, timeout=_WAIT, isolation_level=None)
        made.execute("PRAGMA journal_mode = WAL")
        made.execute("PRAGMA synchronous = FULL")  # a commit is on the disk
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
        database.execute("COMMIT")


def _only_read(path: Path) -> sqlite3.Connection:
    place = f"file:{quote(str(path.absolute()))}?mode=ro"
    made = sqlite3.connect(place, timeout=_WAIT, isolation_level=None, uri=True)
    try:
        made.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.OperationalError:  # a folder in which SQLite cannot put its shared memory
        made = sqlite3.connect(f"{place}&immutable=1", isolation_level=None, uri=True)
    return made


def _survey(row: tuple[Any, ...], answers: dict[int, tuple[str, ...]]) -> Survey:
    """A row of the table as it was read; what is wrong with it raises some error."""
    name, pool, kind, people, begun, finished, options, rounds = row
    if finished is not None:
        datetime.fromisoformat(finished)
    found = Survey(
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
        answers=answers,
    )
    places = range(len(found.rounds))
    if not set(answers) <= set(places) or (finished is not None and len(answers) < len(places)):
        raise ValueError(f"survey {name} has {len(answers)} answers to {len(places)} rounds")
    return found


def now() -> str:
    """The time, UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
