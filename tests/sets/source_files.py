"""Sources of captioned pictures to write, and how they are read."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mitune.core.errors import UserError
from mitune.sets.captioned import read_captioned

FOUND = [("a red cube", "png"), ("two blue balls", "jpg"), ("a cone", "webp")]


def picture(kind: str = "png", size: tuple[int, int] = (12, 8), **options: Any) -> bytes:
    file = io.BytesIO()
    format = {"jpg": "JPEG"}.get(kind, kind)
    Image.new("RGB", size, options.pop("colour", "red")).save(file, format, **options)
    return file.getvalue()


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def shard(path: Path, files: dict[str, bytes | str], mode: Any = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as target:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            target.addfile(member, io.BytesIO(data))
    return path


def kinds(source: Path | str) -> list[tuple[str, str]]:
    """Caption and kind of each picture, which must be that of ``picture``."""
    found = []
    for item in read_captioned(source):
        (kind,) = (kind for _, kind in FOUND if picture(kind) == item.content)
        found.append((item.caption, kind))
    return found


def refusal(source: Path | str, **options: Any) -> str:
    def read() -> None:
        for item in read_captioned(source, **options):
            item.picture((4, 4))

    with pytest.raises(UserError) as caught:
        read()
    message = str(caught.value)
    assert message.isprintable()
    return message
