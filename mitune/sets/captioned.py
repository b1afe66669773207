"""Captioned pictures from a folder, from WebDataset shards, or from a data set of ``datasets``.

Nothing that these hold is ever executed: pictures are decoded as JPEG, PNG or WebP, captions are
UTF-8 text or JSON, and whatever else lies there, pickles too, is passed over.
"""

import glob
import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from mitune.errors import UserError
from mitune.images import decode_image

PICTURES = ("jpg", "jpeg", "png", "webp")
KEYS = ("text", "caption")
"""Names under which a JSON object or a table holds the caption, the first one found."""
LISTING = "metadata.jsonl"

Found = tuple[str, object, bytes]
"""Where a picture lies, what stands there as its caption (None: nothing), the bytes of its file."""


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """One captioned picture.

    Attributes:
        name: where it lies, for people.
        caption: its text in one line, never empty.
        content: the bytes of the picture's file.
    """

    name: str
    caption: str
    content: bytes

    @property
    def sha256(self) -> bytes:
        """Digest of caption and bytes, wherever they lie."""
        return hashlib.sha256(json.dumps(self.caption).encode() + self.content).digest()

    def picture(self, size: tuple[int, int]) -> Tensor:
        """``[3, h, w]`` float32 in [0, 1], as ``mitune.images.decode_image``."""
        return decode_image(self.content, self.name, size)


def read_captioned(source: Path | str, limit: int | None = None) -> Iterator[Captioned]:
    """The captioned pictures of a source, in a fixed order, one in memory at a time.

    * A folder: every picture at any depth, by path, with a ``.txt`` of the same name beside it; or,
      where it holds metadata.jsonl, the pictures of its lines: ``file_name``, and ``text`` or
      ``caption``.
    * WebDataset: a ``.tar``, a pattern such as ``shards/*.tar``, or a folder of them: a sample's
      picture with its ``.txt``, or a ``.json`` with ``text`` or ``caption``.
    * With the package ``datasets``: a name on the hub, a folder that ``save_to_disk`` made, or one
      of Parquet files: columns ``image``, and ``text`` or ``caption``; of splits, "train".

    Args:
        source: one of these.
        limit: take only so many, the first; None takes all.

    Raises:
        UserError: nothing of the kind, a picture without a caption, a file that cannot be read, or
            a limit below 1. Whether a picture is whole shows only when it is decoded.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}: expected at least 1 picture")
    empty = True
    for name, text, content in islice(_open(str(source)), limit):
        empty = False
        words = text.split() if isinstance(text, str) else []
        if not words:
            raise UserError(
                f"picture {name} has no caption ({text!r:.40}): expected text in a .txt or .json "
                "beside it (in a shard next to it: tar --sort=name), "
                f"in {LISTING}, or in a column; write one, or take the picture out"
            )
        yield Captioned(name=name, caption=" ".join(words), content=content)
    if empty:
        raise UserError(
            f"{source} holds no picture: expected JPEG, PNG or WebP files with captions (a .txt "
            f"beside each, or {LISTING}), or .tar shards"
        )


def _open(source: str) -> Iterator[Found]:
    place = Path(source)
    if place.suffix == ".tar":
        paths = [place] if place.exists() else [Path(p) for p in sorted(glob.glob(source))]
        if not paths:
            raise UserError(f"{source} matches no file: expected .tar shards")
        return _shards(paths)
    if not place.exists():
        return _table(source)
    if not place.is_dir():
        raise UserError(
            f"{source} is a file: expected a folder, .tar shards, or the name of a data set"
        )
    if (place / LISTING).exists():
        return _listed(place)
    if next(_pictures(place), None) is None:
        if shards := sorted(place.glob("*.tar")):
            return _shards(shards)
        if _saved(place) or next(place.rglob("*.parquet"), None):
            return _table(source)
    return _beside(place)


def _pictures(folder: Path) -> Iterator[Path]:
    found = (path for path in folder.rglob("*") if not path.name.startswith("."))
    return (path for path in found if path.suffix[1:].lower() in PICTURES)


def _beside(folder: Path) -> Iterator[Found]:
    for path in sorted(_pictures(folder)):
        text = path.with_suffix(".txt")
        yield str(path), _text(_read(text), text) if text.exists() else None, _read(path)


def _listed(folder: Path) -> Iterator[Found]:
    listing = folder / LISTING
    for number, line in enumerate(_text(_read(listing), listing).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{listing}, line {number}"
        entry = _json(line, where)
        name = entry.get("file_name")
        # A listing comes with the pictures: it has no say over other folders.
        if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{where} has the file_name {name!r}: expected a path within {folder}")
        yield str(folder / name), _first(entry), _read(folder / name)


def _shards(paths: Sequence[Path]) -> Iterator[Found]:
    for path in paths:
        for key, sample in _samples(path):
            kind = next((kind for kind in PICTURES if kind in sample), None)
            if kind is None:
                continue
            text: object = None
            if "txt" in sample:
                text = _text(sample["txt"], f"{path}: {key}.txt")
            elif "json" in sample:
                where = f"{path}: {key}.json"
                text = _first(_json(_text(sample["json"], where), where))
            yield f"{path}: {key}.{kind}", text, sample[kind]


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """WebDataset's samples: runs of files that differ in what follows the first dot of their names.
    Yields key, and content by kind, of what may be a picture or a caption; the rest stays
    unread."""
    try:
        # Without compression, as WebDataset writes: no small file then unpacks to a huge one, which
        # a sparse member would too.
        with tarfile.open(path, "r:") as shard:
            plain = (m for m in shard if m.isfile() and not m.issparse())
            for key, members in groupby(plain, lambda member: _split(member.name)[0]):
                sample = {}
                for member in members:
                    kind = _split(member.name)[1]
                    if kind in (*PICTURES, "txt", "json") and (file := shard.extractfile(member)):
                        sample[kind] = file.read()
                yield key, sample
    except (OSError, tarfile.TarError) as error:
        raise UserError(
            f"shard {path} cannot be read ({error}): expected a whole .tar file, not compressed"
        ) from error


def _split(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    stem, _, kind = path.name.partition(".")
    return str(path.parent / stem), kind.lower() if stem else ""


def _saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` of ``datasets`` made it."""
    return any((folder / name).exists() for name in ("state.json", "dataset_dict.json"))


def _table(source: str) -> Iterator[Found]:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{source} is no folder of pictures and no .tar file: expected one, or the name of a "
            "data set and the package that reads it (pip install 'mitune[datasets]')"
        ) from None
    # Up to 3 it runs scripts that come with a data set.
    if int(datasets.__version__.split(".")[0]) < 4:
        raise UserError(
            f"the package datasets is {datasets.__version__}: expected 4 or later, which runs no "
            "data set's scripts; pip install 'mitune[datasets]'"
        )
    try:
        if _saved(Path(source)):
            table = datasets.load_from_disk(source)
            table = table["train"] if isinstance(table, dict) else table
        else:
            table = datasets.load_dataset(source, split="train")
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"data set {source} cannot be loaded ({reason}): expected a folder, .tar shards, or a "
            "data set with a split 'train' that this machine can reach"
        ) from error
    key = next((key for key in KEYS if key in table.column_names), None)
    if key is None or not isinstance(table.features.get("image"), datasets.Image):
        raise UserError(
            f"data set {source} has the columns {', '.join(table.column_names)}: expected 'image' "
            f"with pictures, and {' or '.join(map(repr, KEYS))}"
        )
    rows = table.select_columns(["image", key]).cast_column("image", datasets.Image(decode=False))
    for number, row in enumerate(rows):
        stored = row["image"] or {"path": "", "bytes": b""}  # which is no picture, and is told so
        content = _read(Path(stored["path"])) if stored["bytes"] is None else stored["bytes"]
        yield f"{source}, row {number}", row[key], content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in a name
        raise UserError(f"{path} cannot be read ({error}): expected a readable file") from error


def _text(content: bytes, where: Path | str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not text ({error}): expected UTF-8") from error


def _json(text: str, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        raise UserError(f"{where} is no JSON object: expected one with {' or '.join(KEYS)}")
    return entry


def _first(entry: dict[str, Any]) -> object:
    return next((entry[key] for key in KEYS if key in entry), None)
