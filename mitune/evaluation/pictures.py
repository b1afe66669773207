"""Pictures to look at after a run: base and tuned model on the same noise, and the best and worst
candidates by MI."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.engine.request import Request
from mitune.engine.stream import generate
from mitune.models.protocol import LatentModel
from mitune.sets import FineTuningSet

_GAP = 4
_CAPTION = 16
_MORE, _LESS = (1.0, 0.45, 0.05), (0.1, 0.35, 1.0)
"""Colours of what is above and below 0 in a map."""
_LEAST = 64
"""Smaller pictures are enlarged by an integer factor to at least this width in pixels."""


def _to_image(picture: Tensor) -> Image.Image:
    values = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    image = Image.fromarray(values.numpy())
    factor = max(1, -(-_LEAST // image.width))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def grid(rows: Sequence[tuple[str, Sequence[Tensor]]], path: Path) -> None:
    """Write a PNG with one captioned row of pictures for each entry.

    Args:
        rows: (caption, pictures ``[3, h, w]`` float in [0, 1]) from top to bottom; captions may be
            empty.
        path: path of the PNG, which is written atomically.

    Raises:
        UserError: if the file cannot be written.
    """
    images = [(caption, [_to_image(p) for p in pictures]) for caption, pictures in rows]
    width, height = images[0][1][0].size
    columns = max(len(row) for _, row in images)
    line = height + _CAPTION + _GAP
    font = ImageFont.load_default(11)
    longest = max(math.ceil(font.getlength(caption)) for caption, _ in images)
    across = max(columns * (width + _GAP), longest + _GAP) + _GAP
    sheet = Image.new("RGB", (across, len(images) * line + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (caption, row) in enumerate(images):
        top = _GAP + i * line
        pen.text((_GAP, top), caption, fill="black", font=font)
        for j, image in enumerate(row):
            sheet.paste(image, (_GAP + j * (width + _GAP), top + _CAPTION))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.png")
        sheet.save(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"picture {path} cannot be written ({error.strerror}): choose a folder with room"
        ) from error


def overlay(picture: Tensor, found: Tensor) -> Tensor:
    """A picture, in grey, with a map over it: orange where the map is positive, blue where it is
    negative, the stronger the further from 0.

    Args:
        picture: ``[3, H, W]`` float in [0, 1].
        found: ``[h, w]`` float, any positive scale; it is enlarged to the picture's size.

    Returns:
        ``[3, H, W]`` float32 in [0, 1].
    """
    size = tuple(picture.shape[1:])
    large = F.interpolate(found[None, None].float(), size=size, mode="bilinear")[0]
    strength = large / large.abs().amax().clamp(min=1e-12)
    ink = torch.where(strength[..., None] > 0, torch.tensor(_MORE), torch.tensor(_LESS))
    grey = picture.float().mean(dim=0, keepdim=True).expand(3, -1, -1)
    share = 0.8 * strength.abs()
    return grey * (1 - share) + ink[0].movedim(-1, 0) * share


def base_and_tuned(prompts: Sequence[str], base: Tensor, tuned: Tensor, path: Path) -> None:
    """Write a PNG with two rows for each prompt, base above tuned; a column has the same noise.

    Args:
        prompts: P distinct prompts in order.
        base, tuned: ``[P * n, 3, h, w]``; the n pictures of each prompt follow each other.
        path: path of the PNG.
    """
    each = len(base) // len(prompts)
    rows: list[tuple[str, Sequence[Tensor]]] = []
    for i, prompt in enumerate(prompts):
        part = slice(i * each, (i + 1) * each)
        rows += [(f"{prompt}: base", list(base[part])), ("tuned, same noise", list(tuned[part]))]
    grid(rows, path)


def best_and_worst(
    model: LatentModel,
    fine_tuning_set: FineTuningSet,
    sampler: SamplerConfig,
    path: Path,
    *,
    prompts: int = 8,
    each: int = 5,
) -> None:
    """Write a PNG with a row for each of the first ``prompts`` prompts that have a score: the
    candidates with the ``each`` highest scores, then those with the ``each`` lowest.

    A set stores only the selected latents; the others are generated again from their keys.

    Args:
        model: the model in the state in which it built the set.
        fine_tuning_set: the set.
        sampler: the sampler with which the set was built.
        path: path of the PNG.
        prompts: number of rows.
        each: number of candidates at either end; fewer for small pools, so that none is shown
            twice.
    """
    table = fine_tuning_set.table(
        ["prompt_index", "candidate", "score", "finite", "pruned", "seed"]
    ).to_pydict()
    pools: dict[int, list[tuple[float, int]]] = {}
    names = ("prompt_index", "candidate", "score", "finite", "pruned")
    columns = [table[name] for name in names]
    for prompt_index, candidate, score, finite, pruned in zip(*columns, strict=True):
        if finite and not pruned and (prompt_index in pools or len(pools) < prompts):
            pools.setdefault(prompt_index, []).append((score, candidate))
    chosen = {}
    for prompt_index, pool in pools.items():
        ranked = sorted(pool, reverse=True)
        shown = min(each, len(ranked) // 2)  # show no candidate twice
        chosen[prompt_index] = ranked[: max(shown, 1)] + ranked[len(ranked) - shown :]
    texts = fine_tuning_set.prompts
    work = [
        Request(prompt=texts[p], prompt_index=p, index=c)
        for p, pairs in chosen.items()
        for _, c in pairs
    ]
    seed, slots = table["seed"][0], min(64, len(work))
    made = {
        (c.prompt_index, c.index): c.latent
        for c in generate(
            model, texts, sampler=sampler, seed=seed, requests=work, slots=slots, scored=False
        )
    }
    rows = []
    for p, pairs in chosen.items():
        pictures = model.decode(torch.stack([made[p, c] for _, c in pairs]))
        low, high = pairs[-1][0], pairs[0][0]
        rows.append((f"{texts[p]}: MI {high:.1f} ... {low:.1f} nats", list(pictures)))
    grid(rows, path)
