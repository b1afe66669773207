"""Shared by all kinds of source: file names, captions, and notes of what is skipped."""

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
"""File name extensions of pictures that are not decoded: such files are skipped with a note."""

KEYS = ("text", "caption")
"""Keys of the caption in a JSON object or a table; the first one found is used."""

Found = tuple[str, object, bytes]
"""Where a picture is stored, the value given as its caption (None if absent), the bytes of its
file."""


class Notes:
    """Counts what a source holds that is skipped or taken only in part, by kind, with the first
    name of each kind."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, name: Path | str) -> None:
        """Count one more item of a kind."""
        count, first = self._found.get(kind, (0, str(name)))
        self._found[kind] = (count + 1, first)

    def __str__(self) -> str:
        """All notes in one line; empty if there are none."""
        return "; ".join(
            f"{kind}: {count} ({printable(first)}{', ...' if count > 1 else ''})"
            for kind, (count, first) in self._found.items()
        )


def first_line(text: str, where: Path | str, notes: Notes) -> str:
    """The first line of a caption file that is not blank; adds a note if there are more."""
    lines = [line for line in split_lines(text) if visible(line)]
    if len(lines) > 1:
        notes.add("captions of several lines, of which the first is taken", where)
    return lines[0] if lines else ""


def first_of(entry: dict[str, Any]) -> object:
    """The caption of a JSON object or table row; None if it has none."""
    return next((entry[key] for key in KEYS if key in entry), None)


def read(path: Path) -> bytes:
    """The bytes of a regular file. Raises UserError if it cannot be read."""
    try:
        return read_file(path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise UserError(
            f"{path} cannot be read ({reason(error)}): expected a readable file"
        ) from error


def decode(content: bytes, where: Path | str) -> str:
    """Decode UTF-8 text, with or without a byte order mark. Raises UserError if it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not text ({error}): expected UTF-8") from error


def parse(text: str, where: str) -> dict[str, Any]:
    """Parse a JSON object. Raises UserError if it is not one."""
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        raise UserError(f"{where} is no JSON object: expected one with {' or '.join(KEYS)}")
    return entry
