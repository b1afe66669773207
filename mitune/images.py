"""Pictures from files, as tensors."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mitune.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP")
"""What pictures of strangers are decoded as: other formats of Pillow's start other programs."""


def read_images(paths: Sequence[Path], size: tuple[int, int]) -> Tensor:
    """Read pictures and resize them to one size.

    Args:
        paths: PNG, JPEG or whatever Pillow reads.
        size: (height, width) in pixels.

    Returns:
        ``[N, 3, height, width]`` float32 in [0, 1].

    Raises:
        UserError: a file that is missing or no picture.
    """
    pictures = []
    for path in paths:
        try:
            with Image.open(path) as image:
                resized = image.convert("RGB").resize((size[1], size[0]), Image.Resampling.LANCZOS)
        except FileNotFoundError:
            raise UserError(f"picture {path} does not exist: expected a PNG or JPEG file") from None
        except (OSError, UnidentifiedImageError) as error:
            raise UserError(
                f"picture {path} cannot be read: expected a PNG or JPEG file"
            ) from error
        pictures.append(_tensor(resized))
    return torch.stack(pictures)


def decode_image(content: bytes, name: str, size: tuple[int, int]) -> Tensor:
    """The centre of a picture, as large as the asked shape allows, resized to it.

    Args:
        content: the bytes of a JPEG, PNG or WebP file; a camera's note of which side is up is
            followed.
        name: what to call it in a message.
        size: (height, width) in pixels.

    Returns:
        ``[3, height, width]`` float32 in [0, 1].

    Raises:
        UserError: bytes that are no whole picture of these formats, or one too large to be safe.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    # What Pillow's decoders raise for damaged files, and its refusal of pictures that unpack to
    # gigabytes.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"picture {name} cannot be read: expected a whole JPEG, PNG or WebP file; replace it, "
            "or take it out with its caption"
        ) from error
    return _tensor(ImageOps.fit(upright, (size[1], size[0]), Image.Resampling.LANCZOS))


def _tensor(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32).copy()) / 255
    return pixels.permute(2, 0, 1)
