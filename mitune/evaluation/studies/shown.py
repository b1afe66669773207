"""Pictures of a study to look at: base and tuned model on the same noise, and what a rule ranks
first and last."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from torch import Tensor

from mitune.evaluation.pictures import base_and_tuned, grid
from mitune.evaluation.rules import Rule
from mitune.evaluation.studies.pools import Pools
from mitune.evaluation.studies.stored import from_bytes
from mitune.models.protocol import LatentModel

_PROMPTS = 8
_EACH = 5


def show_tuned(model: LatentModel, base: Path, tuned: Path, images: int, path: Path) -> None:
    """Write a PNG of some prompts' pictures in two files of ``drawn.stored_pictures``, of
    ``images`` pictures a prompt."""
    texts = pq.read_table(base, columns=["prompt"])["prompt"].to_pylist()
    prompts = list(dict.fromkeys(texts))
    places = _spread(len(prompts))
    rows = [place * images + number for place in places for number in range(images)]
    before, after = (_pictures(model, each, rows) for each in (base, tuned))
    base_and_tuned([prompts[place] for place in places], before, after, path)


def _spread(count: int) -> list[int]:
    """Places of a list of that length, as many as are shown: over all of it, as prompts of one
    category stand together."""
    shown = min(count, _PROMPTS)
    return [number * count // shown for number in range(shown)]


def _pictures(model: LatentModel, file: Path, rows: Sequence[int]) -> Tensor:
    column = pq.read_table(file, columns=["latent"])["latent"].to_pylist()
    latents = from_bytes([column[row] for row in rows])
    return model.decode(latents.view(len(rows), *model.latent_shape))


def show_ranking(model: LatentModel, pools: Pools, rule: Rule, path: Path) -> None:
    """Write a PNG with a row for each of some prompts: the candidates that ``rule`` ranks first,
    then those that it ranks last."""
    rows = []
    for place in _spread(len(pools.prompts)):
        prompt, latents, scores = (
            pools.prompts[place],
            pools.latents[place],
            pools.scores[rule][place],
        )
        order = scores.argsort(descending=True).tolist()
        ends = min(_EACH, len(order) // 2)  # show no candidate twice
        chosen = order[: max(ends, 1)] + order[len(order) - ends :]
        low, high = float(scores[chosen[-1]]), float(scores[chosen[0]])
        pictures = list(model.decode(latents[chosen]))
        rows.append((f"{prompt}: {rule}, {high:.1f} ... {low:.1f}", pictures))
    grid(rows, path)
