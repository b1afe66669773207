"""Which of some pictures shows a prompt best? Point-wise mutual information in nats.

python examples/score_pictures.py "a red circle" picture1.png picture2.png
"""

import sys
from pathlib import Path

from PIL import Image

import mitune


def main(
    prompt: str, *files: str, name: str = "shapes", draws: int = 64
) -> list[tuple[float, str]]:
    """(nats, file), the best first."""
    model = mitune.load(name)
    pictures = [Image.open(path) for path in files]
    nats = mitune.score(
        model,
        [prompt] * len(pictures),
        pictures,
        estimator="standard",
        draws=draws,
        shared_noise=True,
    )
    ranked = sorted(zip(nats.tolist(), files, strict=True), reverse=True)
    for value, path in ranked:
        print(f"{value:8.2f}  {Path(path).name}")
    return ranked


if __name__ == "__main__":
    main(*sys.argv[1:])
