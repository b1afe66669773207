"""The pictures that a survey shows: a folder that holds all of them and a list.

pool.json          what is compared, and for each prompt the pictures of each
images/ID.png      the pictures, by the SHA-256 of their content: no name tells whose they are
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mitune.core.errors import UserError
from mitune.core.files import atomic_write, make_folder
from mitune.core.provenance import as_json
from mitune.core.reading import as_written, read_file

LIST, IMAGES = "pool.json", "images"
FORMAT, VERSION = "mitune-survey-pool", 1
Kind = Literal["metrics", "methods"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ID = re.compile(r"[0-9a-f]{24}\.(png|jpg|webp)")
_KINDS = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp"}


@dataclass(frozen=True, kw_only=True)
class Item:
    """A prompt with the pictures that are compared.

    Attributes:
        category: of the prompt; empty in a comparison of metrics.
        prompt: the text.
        images: for each of what is compared the names of its pictures, one or more.
        scores: what metrics say of its pictures, by metric and name; empty: not known.
    """

    category: str
    prompt: str
    images: Mapping[str, Sequence[str]]
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """All that a survey may show.

    Attributes:
        folder: where the pictures lie.
        kind: "metrics": each picture is the best of a pool by one metric; "methods": each was drawn
            by one method.
        options: what is compared, sorted.
        items: the prompts.
    """

    folder: Path
    kind: Kind
    options: tuple[str, ...]
    items: tuple[Item, ...]

    @property
    def name(self) -> str:
        """Of the folder, as links have it."""
        return self.folder.resolve().name

    @cached_property
    def files(self) -> dict[str, Path]:
        """Every picture's file, by its name."""
        return {
            name: self.folder / IMAGES / name
            for item in self.items
            for names in item.images.values()
            for name in names
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the list, which names all pictures by their content."""
        return hashlib.sha256(self._dumps()).hexdigest()

    def _dumps(self) -> bytes:
        items = [asdict(item) for item in self.items]
        content = {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "options": list(self.options),
            "items": items,
        }
        return as_json(content, indent=1).encode()

    @classmethod
    def read(cls, folder: Path) -> "Pool":
        """The pool in a folder.

        Raises:
            UserError: there is none, it is damaged, or a picture is missing.
        """
        path = folder / LIST
        if not path.exists():
            raise UserError(
                f"{folder} has no {LIST}: expected a folder that mitune survey pool made"
            )
        with as_written(path, "what mitune survey pool wrote"):
            found = json.loads(read_file(path))
            if (found["format"], found["version"]) != (FORMAT, VERSION):
                raise ValueError(f"format {found['format']} {found['version']}")
            pool = cls(
                folder=folder,
                kind=found["kind"],
                options=tuple(found["options"]),
                items=tuple(_item(each, found["options"]) for each in found["items"]),
            )
            check_options(pool.options)
            if pool.kind not in ("metrics", "methods") or not pool.items:
                raise ValueError(f"kind {pool.kind}, {len(pool.items)} prompts")
            if len(set(pool.options)) < max(2, len(pool.options)):
                raise ValueError(f"{len(pool.options)} to compare, not all different")
        if missing := next((path for path in pool.files.values() if not path.is_file()), None):
            raise UserError(f"{missing} is missing: make the pool again with mitune survey pool")
        return pool


def write_pool(
    folder: Path,
    kind: Kind,
    found: Mapping[tuple[str, str], Mapping[str, Sequence[Path]]],
    scores: Mapping[str, Mapping[Path, float]] | None = None,
) -> tuple[Pool, list[str]]:
    """Copy pictures into a new pool.

    Args:
        folder: of the pool.
        kind: what is compared.
        found: for each (category, prompt) the files of each of what is compared.
        scores: what metrics say of the files, by metric.

    Returns:
        The pool, and the prompts that are left out because something has no picture of them.

    Raises:
        UserError: nothing to compare, the folder holds another pool, or a file is no picture.
    """
    options = sorted({name for images in found.values() for name in images})
    check_options(options)
    if len(options) < 2:
        raise UserError(
            f"pictures of {len(options)} {kind} are given: expected at least two to compare"
        )
    whole = {key: images for key, images in found.items() if set(images) == set(options)}
    left_out = [prompt for (_, prompt) in found.keys() - whole.keys()]
    if not whole:
        raise UserError(
            f"no prompt has pictures of all of {', '.join(options)}: expected the same prompts"
        )
    items: list[Item] = []
    files: dict[str, Path] = {}
    for (category, prompt), images in sorted(whole.items()):
        names = {path: _named(path) for name in options for path in images[name]}
        files |= {name: path for path, name in names.items()}
        told = {
            metric: {names[path]: values[path] for path in names if path in values}
            for metric, values in (scores or {}).items()
        }
        item = Item(
            category=category,
            prompt=prompt,
            images={name: [names[path] for path in images[name]] for name in options},
            scores={metric: values for metric, values in told.items() if values},
        )
        items.append(item)
    pool = Pool(folder=folder, kind=kind, options=tuple(options), items=tuple(items))
    if (folder / LIST).is_file() and Pool.read(folder).digest != pool.digest:
        raise UserError(f"{folder} holds another pool: expected a new folder; give another --out")
    make_folder(folder / IMAGES)
    for name, path in files.items():
        if not (folder / IMAGES / name).is_file():
            atomic_write(folder / IMAGES / name, _content(path))
    atomic_write(folder / LIST, pool._dumps())
    return pool, sorted(left_out)


def _item(content: Any, options: Sequence[str]) -> Item:
    """A prompt of a list as it was read; what is wrong with it raises some error."""
    item = Item(**content)
    if not isinstance(item.category, str) or not isinstance(item.prompt, str):
        raise TypeError("a prompt or category that is no text")
    if set(item.images) != set(options) or not all(item.images.values()):
        raise ValueError("a prompt without a picture of each")
    for names in item.images.values():
        if wrong := next((name for name in names if not _ID.fullmatch(name)), None):
            raise ValueError(f"picture {wrong}")
    for values in item.scores.values():
        if not all(math.isfinite(value) for value in values.values()):
            raise ValueError("a score that is not finite")
    return item


def check_options(names: Sequence[str]) -> None:
    """Raise UserError unless the names of what is compared can be columns of a table."""
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(
                f"name {name!r} cannot be used: expected letters, digits, '.', '-' and '_', at "
                "most 64"
            )


def _named(path: Path) -> str:
    """What the picture's copy is called.

    Raises:
        UserError: it is no whole picture: nothing else is served.
    """
    from mitune.core.images import decode_image  # and torch, which the server does not need

    content = _content(path)
    decode_image(content, str(path), (8, 8))
    kind = _KINDS.get(path.suffix.lower(), "png")
    return f"{hashlib.sha256(content).hexdigest()[:24]}.{kind}"


def _content(path: Path) -> bytes:
    with as_written(f"picture {path}", "a JPEG, PNG or WebP file"):
        return read_file(path)


def plain(pool: Pool) -> dict[str, Any]:
    """What people are told about a pool."""
    return {
        "pool": str(pool.folder),
        "kind": pool.kind,
        "compared": list(pool.options),
        "prompts": len(pool.items),
        "pictures": len(pool.files),
    }
