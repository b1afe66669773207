"""Align a model with itself, then draw with the adapter.

python examples/align.py                                            # the embedded model
python examples/align.py stabilityai/stable-diffusion-2-1-base prompts.txt runs/sd21
"""

import sys
from pathlib import Path

import mitune


def main(
    name: str = "shapes", prompts: str | None = None, out: str = "runs/example", **options: object
) -> Path:
    """The folder of the adapter. ``options`` are those of ``mitune.align``."""
    texts = (
        Path(prompts).read_text().splitlines()
        if prompts
        else ["a red circle and a blue square", "a green triangle and a yellow circle"]
    )
    model = mitune.load(name)
    last = mitune.align(model, texts, out, **options)[-1]
    print(f"kept {last.set.summary()['kept']} candidates; adapter: {last.adapter}")
    # The model carries the adapter now.
    best = max(mitune.generate(model, texts[:1], candidates=4), key=lambda c: c.score)
    print(f"{texts[0]}: the best of 4 has {best.score:.1f} nats")
    return last.adapter


if __name__ == "__main__":
    main(*sys.argv[1:])
