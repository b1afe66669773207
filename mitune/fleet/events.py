"""What happens in a fleet, as lines of JSON that people and programs can follow."""

import json
import time
from pathlib import Path
from typing import Any

from mitune.core.files import make_folder

FILE = "fleet.jsonl"


class Events:
    """Appends to ``FOLDER/fleet.jsonl``, a line for each event: a worker joined, was given a unit,
    made it, failed or was lost; a unit was put aside.

    Args:
        folder: where; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._start = time.monotonic()
        self._path = None if folder is None else folder / FILE
        if folder is not None:
            make_folder(folder)

    def tell(self, event: str, **facts: Any) -> None:
        """Append one event with its time, UTC and in seconds since this object was made."""
        if self._path is None:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        at = round(time.monotonic() - self._start, 3)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": now, "at": at, "event": event, **facts}) + "\n")
