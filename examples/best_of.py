"""The best of many pictures by mutual information, from a diffusers pipeline that you have.

python examples/best_of.py stabilityai/stable-diffusion-2-1-base "two cats and a red ball" cats.png
"""

import sys
from typing import Any

import mitune


def main(pipe: Any, prompt: str, out: str, n: int = 16, **options: Any) -> float:
    """The nats of the picture that is saved to ``out``. ``pipe`` is a pipeline or its name."""
    if isinstance(pipe, str):
        from diffusers import DiffusionPipeline

        pipe = DiffusionPipeline.from_pretrained(pipe)
    best = mitune.best_of(pipe, prompt, n=n, **options)[0]
    best.image.save(out)
    print(f"{prompt}: {best.nats:.1f} nats, {out}")
    return best.nats


if __name__ == "__main__":
    main(*sys.argv[1:])
