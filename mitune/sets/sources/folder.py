"""Folders of pictures, with captions in a .txt next to each, or in metadata.jsonl or
metadata.csv."""

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mitune.core.errors import UserError
from mitune.core.files import is_system
from mitune.sets.sources.found import (
    KEYS,
    OTHER_PICTURES,
    PICTURES,
    Found,
    Notes,
    decode,
    first_line,
    first_of,
    parse,
    read,
)
from mitune.sets.sources.shards import COMPRESSED

LISTINGS = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The files in a folder, at any depth.

    Attributes:
        path: the folder.
        pictures: files that are read as pictures.
        listings: files with a name in LISTINGS.
        shards: .tar files in the folder itself, not below it.
        tables: .parquet files.
        texts: names of .txt files, by their folder and their name in lower case.
    """

    path: Path
    pictures: list[Path] = field(default_factory=list)
    listings: list[Path] = field(default_factory=list)
    shards: list[Path] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    texts: dict[tuple[Path, str], list[str]] = field(default_factory=dict)


def scan(path: Path, notes: Notes) -> Folder:
    """Find the files in a folder. Hidden and linked folders are not entered. Files that look like
    pictures but cannot be used are added to ``notes``.

    Raises:
        UserError: if a folder cannot be read.
    """
    found = Folder(path=path)
    for place, folders, names in os.walk(path, onerror=_unreadable):
        inside = Path(place)
        folders[:] = [name for name in folders if _enters(inside / name, notes)]
        for name in names:
            if not is_system(name):
                _sort(found, inside / name, notes)
    return found


def beside(folder: Folder, notes: Notes) -> Iterator[Found]:
    """Yield the pictures of a folder, sorted by path, with the text next to each."""
    stems = {(picture.parent, picture.stem) for picture in folder.pictures}
    for shard in folder.shards:
        notes.add(".tar files beside pictures passed over", shard)
    for picture in sorted(folder.pictures):
        text = _caption_file(folder, picture, stems)
        caption = None if text is None else first_line(decode(read(text), text), text, notes)
        yield str(picture), caption, read(picture)


def listed(folder: Folder, notes: Notes) -> Iterator[Found]:
    """Yield the pictures that the listings of a folder name, listing by listing, line by line."""
    left = set(folder.pictures)
    places = [listing.parent for listing in folder.listings]
    for listing in sorted(folder.listings):
        if places.count(listing.parent) > 1:
            raise UserError(
                f"{listing.parent} holds {' and '.join(LISTINGS)}: expected one; remove the other"
            )
        for where, entry in _lines(listing) if listing.suffix == ".jsonl" else _rows(listing):
            name = entry.get("file_name")
            # A listing comes with the pictures and is not trusted outside its own folder.
            if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
                raise UserError(
                    f"{where} has the file_name {name!r}: expected a path within {listing.parent}"
                )
            picture = listing.parent / name
            left.discard(picture)
            yield str(picture), first_of(entry), read(picture)
    for picture in sorted(left):
        notes.add("pictures that no listing names passed over", picture)


def _enters(path: Path, notes: Notes) -> bool:
    if is_system(path.name):
        return False
    if path.name.startswith("."):
        notes.add("hidden folders passed over", path)
        return False
    if path.is_symlink():
        notes.add("linked folders not followed (give one as the source itself)", path)
        return False
    return True


def _sort(found: Folder, path: Path, notes: Notes) -> None:
    """Add a file to the right list of ``found``, or note why it is skipped."""
    name, kind = path.name, path.suffix[1:].lower()
    if name in LISTINGS:
        found.listings.append(path)
    elif kind == "txt":
        found.texts.setdefault((path.parent, name.lower()), []).append(name)
    elif kind == "tar" and path.parent == found.path:
        found.shards.append(path)
    elif name.lower().endswith(COMPRESSED):
        notes.add("compressed shards passed over (unpack them)", path)
    elif kind == "parquet":
        found.tables.append(path)
    elif kind in OTHER_PICTURES:
        notes.add(f".{kind} files passed over", path)
    elif kind in PICTURES:
        if name.startswith("."):
            notes.add("hidden pictures passed over", path)
        elif not path.exists():
            notes.add("broken links passed over", path)
        elif not path.is_file():
            notes.add("pipes, sockets and devices passed over", path)
        else:
            found.pictures.append(path)


def _caption_file(folder: Folder, picture: Path, stems: set[tuple[Path, str]]) -> Path | None:
    """The text file next to a picture: the one with the same name. If there is none, one whose name
    differs only in case and does not belong to another picture."""
    name = f"{picture.stem}.txt"
    near = folder.texts.get((picture.parent, name.lower()), [])
    if name in near:
        return picture.parent / name
    same = [text for text in near if text[:-4] == picture.stem]
    other = [text for text in near if (picture.parent, text[:-4]) not in stems]
    possible = sorted(same or other)
    if len(possible) > 1:
        raise UserError(
            f"picture {picture} has the captions {' and '.join(possible)}: expected one, {name}"
        )
    return picture.parent / possible[0] if possible else None


def _lines(listing: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(decode(read(listing), listing).split("\n"), 1):
        if line.strip():
            where = f"{listing}, line {number}"
            yield where, parse(line, where)


def _rows(listing: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    table = csv.DictReader(io.StringIO(decode(read(listing), listing), newline=""), strict=True)
    try:
        columns = table.fieldnames or []
        if "file_name" not in columns or not set(KEYS) & set(columns):
            raise UserError(
                f"{listing} has the columns {', '.join(columns)}: expected file_name, and "
                f"{' or '.join(KEYS)}, with commas between them"
            )
        for row in table:
            where = f"{listing}, line {table.line_num}"
            if None in row:  # the key under which csv stores surplus columns
                raise UserError(
                    f"{where} has more columns than the first line: expected {len(columns)}; put "
                    'a caption with commas into "quotation marks"'
                )
            yield where, row
    except csv.Error as error:
        raise UserError(
            f"{listing}, line {table.reader.line_num} cannot be read ({error}): expected a table "
            "with commas between its columns"
        ) from error


def _unreadable(error: OSError) -> None:
    raise UserError(
        f"folder {error.filename} cannot be read ({error.strerror}): expected a readable folder"
    ) from error
