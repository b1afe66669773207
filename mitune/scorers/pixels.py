"""Pictures as the published metrics read them: bytes, resized by Pillow, normalised as CLIP's."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mitune.core.images import as_pictures

MEAN = (0.48145466, 0.4578275, 0.40821073)
SPREAD = (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that CLIP was trained on; BLIP and ImageReward use the same numbers."""


def stretched(images: Tensor, size: int) -> Tensor:
    """``[N, 3, size, size]`` float32, each picture stretched to a square (bicubic, antialiased),
    normalised."""
    return _normalised(
        [i.resize((size, size), Image.Resampling.BICUBIC) for i in as_pictures(images)]
    )


def cropped(images: Tensor, size: int) -> Tensor:
    """``[N, 3, size, size]`` float32, the middle of each picture after its shorter side became
    ``size`` (bicubic, antialiased), normalised."""
    parts = []
    for image in as_pictures(images):
        scale = size / min(image.size)
        width, height = (max(size, int(side * scale)) for side in image.size)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - size) / 2), round((height - size) / 2)
        parts.append(resized.crop((left, top, left + size, top + size)))
    return _normalised(parts)


def padded(images: Tensor, size: int) -> Tensor:
    """``[N, 3, size, size]`` float32, each whole picture after its longer side became ``size``
    (bicubic, antialiased), in the middle of black, normalised."""
    parts = []
    for image in as_pictures(images):
        scale = size / max(image.size)
        width, height = (round(side * scale) for side in image.size)
        whole = Image.new("RGB", (size, size))
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        whole.paste(resized, ((size - width) // 2, (size - height) // 2))
        parts.append(whole)
    return _normalised(parts)


def _normalised(images: list[Image.Image]) -> Tensor:
    pixels = torch.stack([torch.from_numpy(np.asarray(i).copy()) for i in images])
    values = pixels.permute(0, 3, 1, 2).float() / 255
    mean, spread = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, SPREAD))
    return (values - mean) / spread
