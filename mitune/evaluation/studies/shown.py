"""Pictures of a study to look at: base and tuned model on the same noise, and what a rule ranks
first and last."""

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
    """Write a PNG of the first prompts' pictures in two files of ``drawn.stored_pictures``, of
    ``images`` pictures a prompt."""
    texts = pq.read_table(base, columns=["prompt"])["prompt"].to_pylist()
    shown = list(dict.fromkeys(texts))[:_PROMPTS]
    before, after = (_pictures(model, each, len(shown) * images) for each in (base, tuned))
    base_and_tuned(shown, before, after, path)


def _pictures(model: LatentModel, file: Path, count: int) -> Tensor:
    column = pq.read_table(file, columns=["latent"])["latent"].to_pylist()[:count]
    return model.decode(from_bytes(column).view(count, *model.latent_shape))


def show_ranking(model: LatentModel, pools: Pools, rule: Rule, path: Path) -> None:
    """Write a PNG with a row for each of the first prompts: the candidates that ``rule`` ranks
    first, then those that it ranks last."""
    rows = []
    for prompt, latents, scores in zip(
        pools.prompts[:_PROMPTS], pools.latents, pools.scores[rule], strict=False
    ):
        order = scores.argsort(descending=True).tolist()
        ends = min(_EACH, len(order) // 2)  # show no candidate twice
        chosen = order[: max(ends, 1)] + order[len(order) - ends :]
        low, high = float(scores[chosen[-1]]), float(scores[chosen[0]])
        pictures = list(model.decode(latents[chosen]))
        rows.append((f"{prompt}: {rule}, {high:.1f} ... {low:.1f}", pictures))
    grid(rows, path)
