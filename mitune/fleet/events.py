"""What happens in a fleet, as lines of JSON that people and programs can follow."""

import json
import time
from pathlib import Path
from typing import Any

from mitune.core.files import make_folder

FILE = "fleet.jsonl"


class Events:
    """Appends to ``FOLDER/fleet.jsonl``, a line for each event: a worker joined, was given a unit,
    made it, failed, was lost or retired; a unit was put aside.

    Args:
        folder: where; None keeps nothing. It is not touched before ``begin``: until a worker has
            begun the work there, the folder may be another's.
    """

    def __init__(self, folder: Path | None) -> None:
        self._start = time.monotonic()
        self._folder = folder
        self._waiting: list[str] | None = []

    def begin(self) -> None:
        """Write what was told so far, and from now on at once."""
        told, self._waiting = self._waiting or [], None
        for line in told:
            self._write(line)

    def tell(self, event: str, **facts: Any) -> None:
        """Append one event with its time, UTC and in seconds since this object was made."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        at = round(time.monotonic() - self._start, 3)
        line = json.dumps({"time": now, "at": at, "event": event, **facts}) + "\n"
        if self._waiting is None:
            self._write(line)
        else:
            self._waiting.append(line)

    def _write(self, line: str) -> None:
        if self._folder is not None:
            make_folder(self._folder)
            with (self._folder / FILE).open("a", encoding="utf-8") as file:
                file.write(line)
