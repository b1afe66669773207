"""The figures of a benchmark, one JSON line each, written to disk as soon as they are known.

A benchmark on a borrowed machine may be stopped at any moment. Its file holds what it has measured
until then; a second run with the same file and settings reads these figures and measures the rest.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mitune.core.errors import UserError
from mitune.core.provenance import as_json, device_name

_BEGIN = time.perf_counter()


def doing(what: str) -> None:
    """Print to stderr what is going on and how long the process has run, so that nothing that takes
    minutes is silent."""
    print(f"[{time.perf_counter() - _BEGIN:6.1f} s] {what} ...", file=sys.stderr, flush=True)


def on(device: torch.device) -> dict[str, str]:
    """The device and version that all figures of a file share, in addition to their settings:
    figures are only comparable if these are equal."""
    return {"device": device_name(device), "torch": str(torch.__version__)}


class Figures:
    """Named figures of one setting.

    Args:
        path: path of the file, created if absent; None keeps the figures only in memory.
        setting: plain JSON, the file's first line. A file never mixes figures of two settings.

    Raises:
        UserError: if the file holds the figures of another setting, or something else, or cannot
            be written.
    """

    def __init__(self, path: Path | None, setting: dict[str, Any]) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        first = {"setting": json.loads(as_json(setting))}
        try:
            text = path.read_text() if path.exists() else ""
            whole = text[: text.rfind("\n") + 1]  # a run that was stopped may leave half a line
            lines = [json.loads(line) for line in whole.splitlines()]
        except (OSError, ValueError) as error:
            raise UserError(
                f"figures {path} cannot be read ({error}): expected JSON lines of an earlier run, "
                "or a new file"
            ) from error
        if lines and lines[0] != first:
            raise UserError(
                f"figures {path} holds those of another setting, device or torch ("
                f"{_difference(lines[0], first)}): give another file, or the same options"
            )
        for line in lines[1:]:
            self._known.setdefault(line.pop("name"), {}).update(line)
        try:
            path.write_text(whole)
        except OSError as error:
            raise UserError(f"figures {path} cannot be written: {error.strerror}") from error
        if not lines:
            self._append(first)

    def get(self, name: str) -> dict[str, Any] | None:
        """The values stored under ``name``, or None. NaN is stored as null and read as None."""
        return self._known.get(name)

    def put(self, name: str, **values: Any) -> dict[str, Any]:
        """Add values under ``name``; they are on disk when this returns. Returns all values of that
        name."""
        self._known.setdefault(name, {}).update(json.loads(as_json(values)))
        if self._path is not None:
            self._append({"name": name, **values})
        return self._known[name]

    def measured(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The values stored under ``name``; if there are none, measure them now."""
        known = self.get(name)
        if known is None:
            doing(name)
            return self.put(name, **measure())
        doing(f"{name}: read from {self._path}")
        return known

    def _append(self, line: dict[str, Any]) -> None:
        assert self._path is not None
        with self._path.open("a") as file:
            file.write(as_json(line) + "\n")


def _difference(found: Any, expected: dict[str, Any]) -> str:
    """Describe the first setting that differs."""
    there = found.get("setting") if isinstance(found, dict) else None
    if not isinstance(there, dict):
        return "its first line is no setting"
    here = expected["setting"]
    name = next(n for n in (*here, *there) if here.get(n) != there.get(n))
    return f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"[:300]
