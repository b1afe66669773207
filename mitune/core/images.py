"""Pictures from files, as tensors: one decoder for every verb."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mitune.core.errors import UserError
from mitune.core.reading import read_file, reason

FORMATS = ("JPEG", "PNG", "WEBP")
"""The formats in which untrusted files are decoded: some of Pillow's other decoders start other
programs."""

BACKGROUND = (255, 255, 255)
"""Colour behind transparent pixels: white, as in most viewers."""

# First bytes of files in other formats, so that a message can name the format.
_OTHERS = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\0\0\1\0", "ICO"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"<svg", "SVG"),
    (b"<?xml", "SVG"),
    (b"<!DOC", "HTML"),
    (b"<html", "HTML"),
    (b"version https://git-lfs", "Git LFS pointer"),
)
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF"}

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns a picture upright, by its EXIF orientation."""
_LYING = 5
"""The orientations from here on exchange height and width."""

# What Pillow's decoders raise for damaged files, and for pictures that unpack to gigabytes.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    AttributeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def read_images(paths: Sequence[Path], size: tuple[int, int]) -> Tensor:
    """Read pictures and bring them to one size, as ``decode_image`` does.

    Args:
        paths: JPEG, PNG or WebP files.
        size: (height, width) in pixels.

    Returns:
        ``[N, 3, height, width]`` float32 in [0, 1].

    Raises:
        UserError: a file is missing, or ``decode_image`` refuses it.
    """
    pictures = []
    for path in paths:
        try:
            content = read_file(path)
        except FileNotFoundError:
            raise UserError(
                f"picture {path} does not exist: expected a JPEG, PNG or WebP file"
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(
                f"picture {path} cannot be read ({reason(error)}): expected a JPEG, PNG or WebP "
                "file"
            ) from error
        pictures.append(decode_image(content, str(path), size))
    return torch.stack(pictures)


def decode_image(content: bytes, name: str, size: tuple[int, int]) -> Tensor:
    """Crop the largest centred rectangle of the requested shape out of a picture, and resize it.

    The EXIF orientation is applied; an invalid one is ignored, as viewers do. Transparent pixels
    show BACKGROUND. Grey becomes colour, CMYK is converted by (1 - ink) (1 - black), 16-bit grey
    keeps its precision. A colour profile is not applied: the numbers are taken as sRGB.

    Args:
        content: the bytes of a JPEG, PNG or WebP file.
        name: of the picture, for messages.
        size: (height, width) in pixels.

    Returns:
        ``[3, height, width]`` float32 in [0, 1].

    Raises:
        UserError: bytes that are not a whole picture in one of these formats, an animation, or a
            picture too large to be safe.
    """
    with _opened(content, name) as image:
        return _tensor(_upright(image), (size[1], size[0]))


def image_size(content: bytes, name: str) -> tuple[int, int]:
    """(height, width) in pixels of a picture that is turned upright. Raises UserError as
    :func:`decode_image`, except for damage after the file's beginning."""
    with _opened(content, name) as image:
        width, height = image.size
        return (width, height) if (_orientation(image) or 1) >= _LYING else (height, width)


@contextmanager
def _opened(content: bytes, name: str) -> Iterator[Image.Image]:
    """The picture of a file's bytes; what Pillow raises in the block becomes one line."""
    try:
        with warnings.catch_warnings():
            # Pillow warns above half of the size that it refuses, and about invalid metadata.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                frames = getattr(image, "n_frames", 1)
                # Cameras write JPEGs with several pictures (MPO): the first is the photograph.
                if frames > 1 and image.format in ("PNG", "WEBP"):
                    raise UserError(
                        f"picture {name} is an animation of {frames} frames: expected a single "
                        "picture; save the frame that is meant, or take it out with its caption"
                    )
                yield image
    except UserError:
        raise
    except _DAMAGED as error:
        raise UserError(
            f"picture {name} cannot be read ({_fault(content, error)}): expected a whole JPEG, PNG "
            "or WebP file; replace it, or take it out with its caption"
        ) from error


def from_pictures(pictures: Sequence[Image.Image], size: tuple[int, int]) -> Tensor:
    """Pictures in memory as ``decode_image`` makes them of files: ``[N, 3, height, width]`` float32
    in [0, 1], for ``size`` (height, width).

    Raises:
        UserError: something that is not a picture.
    """
    for number, picture in enumerate(pictures):
        if not isinstance(picture, Image.Image):
            raise UserError(
                f"picture {number} is a {type(picture).__name__}: expected a PIL.Image, or one "
                "tensor of all pictures"
            )
    made = [_tensor(_upright(picture), (size[1], size[0])) for picture in pictures]
    return torch.stack(made) if made else torch.zeros(0, 3, *size)


def as_pictures(pixels: Tensor) -> list[Image.Image]:
    """``[N, 3, height, width]`` in [0, 1], as ``PIL.Image`` of 8 bits."""
    values = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(each.numpy()) for each in values.cpu()]


def png_of(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    turn = _TURNS.get(_orientation(image) or 1)
    return image.copy() if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int | None:
    try:
        found = image.getexif().get(0x0112)
    except _DAMAGED:
        return None
    return found if isinstance(found, int) and found in _TURNS else None


def _tensor(image: Image.Image, size: tuple[int, int]) -> Tensor:
    if image.mode.startswith("I"):
        # Only 16-bit grey PNGs have such a mode; converting to 8 bits would lose their precision.
        values = np.asarray(image).astype(np.float32)
        values[values == image.info.get("transparency")] = 65535
        grey = ImageOps.fit(Image.fromarray(values / 65535), size, Image.Resampling.LANCZOS)
        level = torch.from_numpy(np.asarray(grey).copy()).clamp(0, 1)  # Lanczos overshoots
        return level.expand(3, *level.shape).clone()
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (*BACKGROUND, 255)), layer)
    fitted = ImageOps.fit(image.convert("RGB"), size, Image.Resampling.LANCZOS)
    return (torch.from_numpy(np.asarray(fitted, dtype=np.float32).copy()) / 255).permute(2, 0, 1)


def _fault(content: bytes, error: Exception) -> str:
    """What is wrong with a picture's bytes, in a few words."""
    if not content:
        return "it is empty"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels"
    if isinstance(error, UnidentifiedImageError):
        brand = _BRANDS.get(content[8:12]) if content[4:8] == b"ftyp" else None
        other = next((name for start, name in _OTHERS if content.startswith(start)), brand)
        return f"it is a {other} file" if other else "it is of no such format"
    return (str(error).splitlines() or [type(error).__name__])[0]
