"""The scores of a benchmark's pictures, in our own files and in those of the official scorers."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.core.files import atomic_write, make_folder
from mitune.core.images import read_images
from mitune.core.provenance import as_json
from mitune.core.reading import read_file, reason
from mitune.evaluation.benchmarks.suite import BLIP, CLIP, COMPLEX, SPATIAL, Suite, key
from mitune.scoring.scorer import Scorer, scorer_identity

_BLOCK = 32
_WHOLE = "3-in-1"


def scored(
    folder: Path,
    names: Sequence[str],
    texts: Sequence[str],
    scorer: Scorer,
    size: tuple[int, int],
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The scores of a category's pictures, ``[N]`` float64; kept in ``scores/NAME.json`` for a run
    that goes on, and made again for a scorer or pictures that changed.

    Args:
        folder: of the category.
        names: of the files in ``samples``.
        texts: the prompt of each.
        scorer: the metric.
        size: (height, width) of the pictures.
        progress: called with (pictures scored, pictures in all).

    Raises:
        UserError: a picture is missing or damaged, or the scorer refuses a prompt.
    """
    path = folder / "scores" / f"{scorer.name}.json"
    identity = f"{scorer_identity(scorer)} of {_digest(folder, names)}"
    if path.is_file():
        kept = json.loads(read_file(path))
        if kept["scorer"] == identity:
            return torch.tensor(kept["scores"], dtype=torch.float64)
    parts = []
    for start in range(0, len(names), _BLOCK):
        part = slice(start, start + _BLOCK)
        images = read_images([folder / "samples" / name for name in names[part]], size)
        parts.append(scorer.score(images, texts[part]))
        if progress is not None:
            progress(min(start + _BLOCK, len(names)), len(names))
    found = torch.cat(parts)
    make_folder(path.parent)
    content = {"scorer": identity, "requires": scorer.requires, "scores": found.tolist()}
    atomic_write(path, as_json(content).encode())
    return found


def _digest(folder: Path, names: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        try:
            digest.update(hashlib.sha256(read_file(folder / "samples" / name)).digest())
        except OSError as error:
            raise UserError(
                f"picture {name} of {folder} cannot be read ({reason(error)}): run it again"
            ) from None
    return digest.hexdigest()[:16]


def three_in_one(
    suite: Suite, texts: Sequence[str], by_metric: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """T2I-CompBench's score of complex prompts, by its name: for each the mean of those of
    BLIP-VQA, the spatial metric and CLIP that its subset counts; none where one is missing."""
    if not {BLIP, SPATIAL, CLIP} <= set(by_metric):
        return {}
    values = []
    for row, text in enumerate(texts):
        metrics = suite.of_complex.get(key(text), (BLIP, SPATIAL, CLIP))
        values.append(sum(float(by_metric[metric][row]) for metric in metrics) / len(metrics))
    return {_WHOLE: torch.tensor(values, dtype=torch.float64)}


def leave_official(
    folder: Path, category: str, names: Sequence[str], by_metric: Mapping[str, Tensor]
) -> None:
    """The files that T2I-CompBench's own programs leave and read, by their names."""
    if BLIP in by_metric:
        values = [f"{value:.4f}" for value in by_metric[BLIP].tolist()]
        mean = sum(map(float, values)) / len(values)
        _leave(folder / "annotation_blip", values, "blip_vqa_score.txt", f"BLIP-VQA score:{mean}")
    if CLIP in by_metric:
        _leave(folder / "annotation_clip", by_metric[CLIP].tolist())
    if SPATIAL in by_metric:
        place = folder / "labels" / "annotation_obj_detection_2d"
        if category == COMPLEX:  # where its 3-in-1 program looks
            place = folder / "annotation_obj_detection"
        values_2d = by_metric[SPATIAL].tolist()
        mean = sum(values_2d) / len(values_2d)
        _leave(place, values_2d, "avg_score.txt", f"score avg:{mean}")
        mapping = [{"image": name, "question_id": i} for i, name in enumerate(names)]
        atomic_write(place / "mapping.json", json.dumps(mapping).encode())
    if _WHOLE in by_metric:
        whole = by_metric[_WHOLE].tolist()
        mean = sum(whole) / len(whole)
        _leave(folder / "annotation_3_in_1", whole, "vqa_score.txt", f"score avg:{mean}")


def _leave(
    folder: Path, answers: Sequence[float | str], told: str | None = None, text: str = ""
) -> None:
    make_folder(folder)
    rows = [{"question_id": i, "answer": answer} for i, answer in enumerate(answers)]
    atomic_write(folder / "vqa_result.json", json.dumps(rows).encode())
    if told is not None:
        atomic_write(folder / told, text.encode())
