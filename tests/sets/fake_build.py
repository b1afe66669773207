"""A build with made-up candidates; as a script (fake_build.py FOLDER [SHARE]), one that can be
killed."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mitune.config.shard import Shard
from mitune.engine.candidate import Candidate
from mitune.sets import SetWriter

PROMPTS = [f"{n} red cubes" for n in range(7)]
SETTINGS: dict[str, Any] = {
    "steps": 5,
    "guidance": 7.5,
    "model": {"name": "fake", "fingerprint": "00ff"},
    "targets": ["a", "b"],
}
POOL = 4
PER_PART = 2  # 7 prompts: three full parts and a last one of a single prompt


def fake(prompt_index: int, index: int, /, **changes: Any) -> Candidate:
    """The one candidate of this key: the same tensors in every process."""
    generator = torch.Generator().manual_seed(1000 * prompt_index + index)
    terms = torch.randn(5, 2, generator=generator)
    latent = torch.randn(3, 4, 2, generator=generator)
    values = {
        "prompt": PROMPTS[prompt_index],
        "prompt_index": prompt_index,
        "index": index,
        "seed": 11,
        "score": float(terms[:, 0].square().mean()),
        "terms": terms,
        "latent": latent,
    }
    return Candidate(**{**values, **changes})


def pool(prompts: Sequence[int] = range(len(PROMPTS))) -> list[Candidate]:
    """All candidates of the prompts, in order."""
    return [fake(prompt, index) for prompt in prompts for index in range(POOL)]


def writer(out: Path, **changes: Any) -> SetWriter:
    """A writer of the fake set, with some arguments changed."""
    arguments: dict[str, Any] = {
        "settings": SETTINGS,
        "prompts": PROMPTS,
        "candidates": POOL,
        "keep": 2,
        "rule": "mi",
        "prompts_per_part": PER_PART,
    }
    return SetWriter(out, **{**arguments, **changes})


def build(out: Path) -> None:
    """Build or go on, as `mitune build` does."""
    with writer(out) as target:
        for candidate in pool(target.pending_prompts()):
            target.add(candidate)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


if __name__ == "__main__":
    shard = Shard.read(sys.argv[2] if len(sys.argv) > 2 else None)
    with writer(Path(sys.argv[1]), shard=shard) as killable:
        for number, candidate in enumerate(pool(killable.pending_prompts())):
            print(number, flush=True)
            killable.add(candidate)
            time.sleep(0.001)
