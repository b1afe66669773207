"""WebDataset shards: .tar files in which the files of a sample follow each other."""

import glob
import re
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path, PurePosixPath

from mitune.core.errors import UserError
from mitune.core.files import is_system
from mitune.sets.sources.found import (
    OTHER_PICTURES,
    PICTURES,
    Found,
    Notes,
    decode,
    first_line,
    first_of,
    parse,
)

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
"""File name extensions of compressed shards."""

_TAKEN = (*PICTURES, "txt", "json")
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_MOST = 1_000_000  # shards that braces may name: more is a typing error and would fill the memory


def find_shards(source: str) -> list[Path]:
    """The shards that a path or pattern names, in order.

    Args:
        source: a path. ``{000..012}`` and ``{a,b}`` are expanded to each of their values; ``*``,
            ``?`` and ``[...]`` match all such files.

    Raises:
        UserError: if a shard does not exist, braces hold neither a range nor a list, or they name
            more than a million shards.
    """
    if Path(source).exists():
        return [Path(source)]
    names = list(islice(_expanded(source), _MOST + 1))
    if len(names) > _MOST:
        raise UserError(f"{source} names more than {_MOST} shards: expected fewer")
    paths: list[Path] = []
    for name in names:
        matching = sorted(glob.glob(name))
        if not matching:
            which = f"{source} matches no file" if [name] == names else f"{name} is not there"
            raise UserError(f"{which}: expected .tar shards")
        paths += map(Path, matching)
    return paths


def sharded(paths: Sequence[Path], notes: Notes) -> Iterator[Found]:
    """Yield the pictures of the shards, shard by shard, in the order of the files in each."""
    for path in paths:
        for key, sample in _samples(path, notes):
            kind = next((kind for kind in PICTURES if kind in sample), None)
            if kind is None:
                if sample:
                    notes.add("samples without a picture passed over", f"{path}: {key}")
                continue
            text: object = None
            if "txt" in sample:
                where = f"{path}: {key}.txt"
                text = first_line(decode(sample["txt"], where), where, notes)
            elif "json" in sample:
                where = f"{path}: {key}.json"
                text = first_of(parse(decode(sample["json"], where), where))
            yield f"{path}: {key}.{kind}", text, sample[kind]


def _expanded(pattern: str) -> Iterator[str]:
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        yield pattern
        return
    inside = braces[1]
    if span := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        first, last = int(span[1]), int(span[2])
        width = max(map(len, span.groups())) if inside.startswith("0") else 0
        step = 1 if first <= last else -1
        texts: Iterator[str] = (f"{n:0{width}}" for n in range(first, last + step, step))
    elif "," in inside:
        texts = iter(inside.split(","))
    else:
        raise UserError(
            f"{pattern} has the braces {braces[0]}: expected a range such as {{000..012}}, or "
            "names with commas between them"
        )
    for text in texts:
        yield from _expanded(pattern[: braces.start()] + text + pattern[braces.end() :])


def _samples(path: Path, notes: Notes) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the key of each WebDataset sample and the content of its files by extension. A sample
    is a run of files whose names differ only after the first dot. Files that are neither a picture
    nor a caption are not read."""
    if path.exists() and not path.is_file():
        raise UserError(f"shard {path} is a folder, pipe or device: expected a .tar file")
    try:
        # "r:" refuses compression, which WebDataset does not use: a small file could unpack to a
        # huge one. Sparse members are refused for the same reason.
        with tarfile.open(path, "r:") as shard:
            files = (m for m in shard if _is_users_file(m, path, notes))
            for key, members in groupby(files, lambda member: _split(member.name)[0]):
                sample: dict[str, bytes] = {}
                for member in members:
                    kind = _split(member.name)[1]
                    if kind in sample:
                        raise UserError(
                            f"shard {path} holds {member.name} twice: expected one; pack it again"
                        )
                    if kind in _TAKEN and (file := shard.extractfile(member)):
                        sample[kind] = file.read()
                yield key, sample
    except (OSError, tarfile.TarError) as error:
        raise UserError(
            f"shard {path} cannot be read ({_compression(path) or error}): expected a whole .tar "
            "file, not compressed"
        ) from error


def _is_users_file(member: tarfile.TarInfo, path: Path, notes: Notes) -> bool:
    # Filter before grouping into samples: macOS writes its own "._x.jpg" before each x.jpg.
    if any(map(is_system, PurePosixPath(member.name).parts)):
        return False
    kind = _split(member.name)[1]
    if kind in _TAKEN and member.issparse():
        raise UserError(
            f"shard {path} holds {member.name} as a sparse file: expected whole files; pack it "
            "without --sparse"
        )
    if kind in _TAKEN and (member.islnk() or member.issym()):
        notes.add("links in shards passed over", f"{path}: {member.name}")
    if kind in OTHER_PICTURES:
        notes.add(f".{kind} files passed over", f"{path}: {member.name}")
    return member.isfile()


def _split(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    stem, _, kind = path.name.partition(".")
    return str(path.parent / stem), kind.lower() if stem else ""


def _compression(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:
        return None
    return next((f"it is a {name} file" for m, name in _MAGIC.items() if start.startswith(m)), None)
