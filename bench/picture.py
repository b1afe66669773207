"""The README's picture: `make demo`'s base_and_tuned.png, its prompts side by side.

python bench/picture.py runs/demo/base_and_tuned.png docs/pictures/demo.png
"""

import sys
from pathlib import Path

from PIL import Image

BLOCK = 168
"""Height of a prompt's block: two titles and two rows of pictures."""
COLUMNS = 2

sheet = Image.open(sys.argv[1]).convert("RGB")
blocks = [
    sheet.crop((0, y, sheet.width, y + BLOCK)) for y in range(0, sheet.height - BLOCK // 2, BLOCK)
]
rows = -(-len(blocks) // COLUMNS)
made = Image.new("RGB", (COLUMNS * (sheet.width + 8), rows * (BLOCK + 8)), "white")
for i, block in enumerate(blocks):
    made.paste(block, (i % COLUMNS * (sheet.width + 8), i // COLUMNS * (BLOCK + 8)))
out = Path(sys.argv[2])
out.parent.mkdir(parents=True, exist_ok=True)
made.save(out, optimize=True)
