"""Pictures within the page: data addresses, and the small pictures of a pool on one sheet."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

_KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
_QUALITY = 80
_GAP = 2
"""Between two pictures, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Small pictures side by side.

    Attributes:
        address: of the picture of all, within the page.
        columns: in each row.
        width, height: of all, in pixels.
    """

    address: str
    columns: int
    width: int
    height: int


def sheet(pictures: Sequence[Image.Image], cell: int, columns: int = 10) -> Sheet:
    """Pictures on one sheet, row by row, each made to fit a square.

    Args:
        pictures: at least one.
        cell: edge of a square in pixels.
        columns: at most so many in a row.
    """
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    made = Image.new("RGBA", (columns * cell, rows * cell))  # transparent between the pictures
    for place, picture in enumerate(pictures):
        small = thumbnail(picture, cell - _GAP)
        left = place % columns * cell + (cell - small.width) // 2
        top = place // columns * cell + (cell - small.height) // 2
        made.paste(small, (left, top))
    return Sheet(
        address=address_of(made, quality=_QUALITY),
        columns=columns,
        width=made.width,
        height=made.height,
    )


def thumbnail(picture: Image.Image, edge: int) -> Image.Image:
    """The picture with its longer side at ``edge`` pixels: smaller ones are enlarged without
    blurring."""
    scale = edge / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    way = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize(size, way)


def address_of(picture: Image.Image, quality: int | None = None) -> str:
    """A picture as a data address: WebP, lossless without ``quality``."""
    content = io.BytesIO()
    if quality is None:
        picture.save(content, "WEBP", lossless=True)
    else:
        picture.save(content, "WEBP", quality=quality)
    return _address("image/webp", content.getvalue())


def address_of_file(path: Path, most: int) -> str:
    """A picture's file as a data address: as it is, or with its longer side at ``most`` pixels."""
    with Image.open(path) as picture:
        if max(picture.size) > most:
            return address_of(thumbnail(picture, most), quality=_QUALITY)
    return _address(_KINDS[path.suffix.lower()], path.read_bytes())


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
