"""Small pools of pictures."""

from pathlib import Path

from PIL import Image

from mitune.survey.pool import Kind, Pool, write_pool
from mitune.survey.sources import of_authors

METHODS = ("GORS", "MI", "VNL")


def authors(folder: Path, kind: Kind = "methods", categories: int = 2, prompts: int = 3) -> Path:
    """The authors' folders, every picture of another colour."""
    number = 0
    for category in range(categories if kind == "methods" else 1):
        for name in METHODS:
            place = folder / f"kind{category}" / name if kind == "methods" else folder / name
            place.mkdir(parents=True)
            for prompt in range(prompts):
                number += 1
                colour = (number * 37 % 256, number * 91 % 256, number * 53 % 256)
                picture = Image.new("RGB", (16, 16), colour)
                picture.save(
                    place / f"a {'red' if category else 'big'} thing {prompt}_{prompt:06d}.png"
                )
    return folder


def pool(folder: Path, kind: Kind = "methods", **sizes: int) -> Pool:
    """A pool of these, in ``folder / kind``."""
    found = of_authors(authors(folder / f"pictures of {kind}", kind, **sizes), kind)
    return write_pool(folder / kind, kind, found)[0]
