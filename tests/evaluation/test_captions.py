"""Captions of pictures to look at."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mitune.evaluation.pictures import grid


def test_a_caption_longer_than_its_row_is_whole(tmp_path: Path) -> None:
    rows = [("mmmm " * 12, [torch.zeros(3, 64, 64)]), ("short", [torch.zeros(3, 64, 64)])]
    grid(rows, tmp_path / "a.png")
    sheet = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    assert sheet.shape[1] > 12 * 5 * 4
    inked = np.flatnonzero((sheet[4:18] < 128).any(axis=0))
    assert inked[-1] < sheet.shape[1] - 4  # the last letter has room after it
