"""What all kinds of source share: names, texts, and notes of what is not taken."""

import json
from pathlib import Path
from typing import Any

from mitune.core.errors import UserError, printable
from mitune.core.prompts import split_lines, visible
from mitune.core.reading import read_file, reason

PICTURES = ("jpg", "jpeg", "png", "webp")
OTHER_PICTURES = (
    *("apng", "avif", "bmp", "gif", "heic", "heif", "jfif", "jp2", "jpe", "jxl"),
    *("psd", "svg", "tif", "tiff"),
)
"""Ends of names of pictures that are not decoded: they are passed over, and told."""

KEYS = ("text", "caption")
"""Names under which a JSON object or a table holds the caption, the first one found."""

Found = tuple[str, object, bytes]
"""Where a picture lies, what stands there as its caption (None: nothing), the bytes of its file."""


class Notes:
    """What a source holds that is passed over, or not taken whole: kinds, numbers, first names."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, name: Path | str) -> None:
        """Count one more of a kind."""
        count, first = self._found.get(kind, (0, str(name)))
        self._found[kind] = (count + 1, first)

    def __str__(self) -> str:
        """All of them in one line; empty when there are none."""
        return "; ".join(
            f"{kind}: {count} ({printable(first)}{', ...' if count > 1 else ''})"
            for kind, (count, first) in self._found.items()
        )


def first_line(text: str, where: Path | str, notes: Notes) -> str:
    """The first line of a caption's file that holds something; noted where there are more."""
    lines = [line for line in split_lines(text) if visible(line)]
    if len(lines) > 1:
        notes.add("captions of several lines, of which the first is taken", where)
    return lines[0] if lines else ""


def first_of(entry: dict[str, Any]) -> object:
    """What an object has as its caption; None for nothing."""
    return next((entry[key] for key in KEYS if key in entry), None)


def read(path: Path) -> bytes:
    """The bytes of a regular file. Raises UserError."""
    try:
        return read_file(path)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in a name
        raise UserError(
            f"{path} cannot be read ({reason(error)}): expected a readable file"
        ) from error


def decode(content: bytes, where: Path | str) -> str:
    """UTF-8 text. Raises UserError."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not text ({error}): expected UTF-8") from error


def parse(text: str, where: str) -> dict[str, Any]:
    """A JSON object. Raises UserError."""
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        raise UserError(f"{where} is no JSON object: expected one with {' or '.join(KEYS)}")
    return entry
