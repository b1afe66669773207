"""Pictures from files, as tensors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mitune.errors import UserError


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
        pictures.append(torch.from_numpy(np.asarray(resized, dtype=np.float32).copy()) / 255)
    return torch.stack(pictures).permute(0, 3, 1, 2)
