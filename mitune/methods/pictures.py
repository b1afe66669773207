"""A set's pictures in the forms that other programs train on: pairs of the best and the worst
candidate of each pool, as Diffusion-DPO's trainers read them; a folder of pictures; WebDataset
shards."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mitune.adapters.export.folder import new_folder
from mitune.adapters.model_card import CARD, shown_name
from mitune.adapters.run_folder import base_name
from mitune.config.choices import PictureForm, check_choice
from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.core.identity import check_same_model
from mitune.core.images import as_pictures, png_of
from mitune.engine.request import Request
from mitune.engine.stream import generate
from mitune.methods.picture_card import picture_card
from mitune.models.protocol import LatentModel
from mitune.sets import FineTuningSet

_BLOCK = 64
"""Pictures that are in memory at a time."""
_SHARD = 1000
"""Pictures of a WebDataset shard."""

T = TypeVar("T")


class Picture(NamedTuple):
    """One picture with its prompt, as PNG."""

    prompt: str
    nats: float
    png: bytes


class Pair(NamedTuple):
    """The best and the worst candidate of a pool."""

    best: Picture
    worst: Picture


def export_pictures(
    model: LatentModel,
    fine_tuning_set: FineTuningSet,
    out: Path | str,
    form: PictureForm,
    *,
    adapter: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write a set's pictures into the new folder ``out``, which appears whole or not at all.

    Args:
        model: that built the set, in the state in which it did.
        fine_tuning_set: complete.
        out: absent or empty.
        form: "pairs": Parquet with the columns ``caption``, ``jpg_0`` (the best candidate, PNG
            bytes), ``jpg_1`` (the worst), ``label_0`` (1: the first is preferred), ``nats_0`` and
            ``nats_1``; the losers, which a set does not store, are drawn again from their keyed
            noise. "imagefolder": PNG files and ``metadata.jsonl``, and "webdataset": tar files,
            both of the selected candidates.
        adapter: digest of the adapter on ``model``; None: there is none.
        progress: called with the number of pictures or pairs that are done.

    Returns:
        The number of pictures, or of pairs.

    Raises:
        UserError: an unknown form; a set that is not complete or not of this model and adapter; for
            pairs one that was not generated, or whose pools have no two scored candidates; or a
            disk that cannot be written.
    """
    check_choice("format", form, PictureForm)
    if not fine_tuning_set.complete:
        raise UserError(
            f"set {fine_tuning_set.path} is not complete: run the command that began it again"
        )
    settings = fine_tuning_set.settings
    check_same_model(f"set {fine_tuning_set.path}", settings, model)
    drawn = settings.get("precision", model.precision)
    if form == "pairs" and drawn != model.precision:
        raise UserError(
            f"set {fine_tuning_set.path} was drawn in {drawn} and the model is in "
            f"{model.precision}: expected the same, as the losers are drawn again"
        )
    if form == "pairs" and settings.get("adapter") != adapter:
        raise UserError(
            f"set {fine_tuning_set.path} was drawn with another adapter: expected the one of its "
            "build, from which the losers are drawn again"
        )
    writers: dict[str, Callable[..., int]] = {
        "pairs": _write_pairs,
        "imagefolder": _write_folder,
        "webdataset": _write_shards,
    }
    made: Iterator[Any] = (
        _pairs(model, fine_tuning_set) if form == "pairs" else _selected(model, fine_tuning_set)
    )
    with new_folder(out) as folder:
        count = writers[form](_counted(made, progress), folder)
        shown = shown_name(base_name(model.name))
        content = picture_card(form, count, len(fine_tuning_set.prompts), shown)
        (folder / CARD).write_bytes(content)
    return count


def _counted(made: Iterator[T], progress: Callable[[int], None] | None) -> Iterator[T]:
    for number, each in enumerate(made, 1):
        yield each
        if progress:
            progress(number)


def _blocks(items: Sequence[T] | Iterator[T]) -> Iterator[list[T]]:
    source = iter(items)
    while block := list(islice(source, _BLOCK)):
        yield block


def _selected(model: LatentModel, fine_tuning_set: FineTuningSet) -> Iterator[Picture]:
    rows = fine_tuning_set.table(["prompt_index", "rank", "selected", "score"])
    rows = rows.filter(rows["selected"]).sort_by(
        [("prompt_index", "ascending"), ("rank", "ascending")]
    )
    scores = rows["score"].to_pylist()
    for block in _blocks(zip(fine_tuning_set.selected(), scores, strict=True)):
        pngs = _pngs(model, [latent for (_, latent), _ in block])
        for ((prompt, _), score), png in zip(block, pngs, strict=True):
            yield Picture(prompt, score, png)


def _pairs(model: LatentModel, fine_tuning_set: FineTuningSet) -> Iterator[Pair]:
    settings, texts = fine_tuning_set.settings, fine_tuning_set.prompts
    if "sampler" not in settings:
        raise UserError(
            f"set {fine_tuning_set.path} is of given pictures: expected one that mitune build made"
        )
    columns = ("prompt_index", "candidate", "score", "finite", "pruned")
    pools: dict[int, list[tuple[float, int]]] = {}
    table = fine_tuning_set.table(columns).to_pydict()
    for prompt_index, candidate, score, finite, pruned in zip(
        *(table[name] for name in columns), strict=True
    ):
        if finite and not pruned:
            pools.setdefault(prompt_index, []).append((score, candidate))
    ends = {p: (max(pool), min(pool)) for p, pool in pools.items() if min(pool) < max(pool)}
    if not ends:
        raise UserError(
            f"set {fine_tuning_set.path} has no pool with two scored candidates: expected a best "
            "and a worst one"
        )
    for block in _blocks(iter(ends)):
        work = [
            Request(prompt=texts[p], prompt_index=p, index=index)
            for p in block
            for index in dict.fromkeys(index for _, index in ends[p])
        ]
        made = {
            (c.prompt_index, c.index): c.latent
            for c in generate(
                model,
                texts,
                sampler=SamplerConfig(**settings["sampler"]),
                seed=settings["seed"],
                requests=work,
                slots=min(_BLOCK, len(work)),
                scored=False,
            )
        }
        latents = [made[p, index] for p in block for _, index in ends[p]]
        pngs = iter(_pngs(model, latents))
        for p in block:
            best, worst = (Picture(texts[p], score, next(pngs)) for score, _ in ends[p])
            yield Pair(best, worst)


def _pngs(model: LatentModel, latents: Sequence[Tensor]) -> list[bytes]:
    found: dict[int, bytes] = {}
    for shape in dict.fromkeys(latent.shape for latent in latents):  # of a set with buckets
        same = [i for i, latent in enumerate(latents) if latent.shape == shape]
        decoded = as_pictures(model.decode(torch.stack([latents[i] for i in same])))
        for i, picture in zip(same, decoded, strict=True):
            found[i] = png_of(picture)
    return [found[i] for i in range(len(latents))]


def _write_pairs(pairs: Iterator[Pair], folder: Path) -> int:
    schema = pa.schema(
        {
            "caption": pa.string(),
            "jpg_0": pa.binary(),
            "jpg_1": pa.binary(),
            "label_0": pa.int64(),
            "nats_0": pa.float64(),
            "nats_1": pa.float64(),
        }
    )
    count = 0
    with pq.ParquetWriter(folder / "pairs.parquet", schema) as writer:
        for block in _blocks(pairs):
            rows = [
                (best.prompt, best.png, worst.png, 1, best.nats, worst.nats)
                for best, worst in block
            ]
            columns = [list(column) for column in zip(*rows, strict=True)]
            writer.write_table(pa.table(columns, schema=schema))
            count += len(block)
    return count


def _write_folder(pictures: Iterator[Picture], folder: Path) -> int:
    count = 0
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for count, (prompt, nats, png) in enumerate(pictures, 1):
            name = f"{count - 1:06d}.png"
            (folder / name).write_bytes(png)
            file.write(json.dumps({"file_name": name, "text": prompt, "mi_nats": nats}) + "\n")
    return count


def _write_shards(pictures: Iterator[Picture], folder: Path) -> int:
    count = 0
    shard: tarfile.TarFile | None = None
    try:
        for count, (prompt, nats, png) in enumerate(pictures, 1):
            if (count - 1) % _SHARD == 0:
                if shard is not None:
                    shard.close()
                shard = tarfile.open(folder / f"{(count - 1) // _SHARD:06d}.tar", "w")  # noqa: SIM115
            assert shard is not None
            notes = json.dumps({"mi_nats": nats}).encode()
            for kind, content in (("png", png), ("txt", prompt.encode()), ("json", notes)):
                member = tarfile.TarInfo(f"{count - 1:06d}.{kind}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    finally:
        if shard is not None:
            shard.close()
    return count
