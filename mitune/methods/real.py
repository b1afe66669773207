"""A fine-tuning set of real captioned pictures: encoded once, scored by re-noising, the best by MI
kept (Wang et al., appendix D.1, Table 7)."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import torch

from mitune.core.errors import UserError, printable
from mitune.core.progress import warn_unrecorded
from mitune.core.provenance import environment
from mitune.diffusion.schedule import Schedule
from mitune.engine.candidate import Candidate
from mitune.models.protocol import LatentModel
from mitune.runtime.prepared import prepare
from mitune.scoring.estimate import ESTIMATORS
from mitune.scoring.score import score
from mitune.sets import FineTuningSet, SetWriter
from mitune.sets.captioned import Captioned, read_captioned

_BLOCK = 64
"""Pictures that are encoded and scored together, and captions of one part."""


def build_real_set(
    model: LatentModel,
    source: Path | str,
    out: Path | str,
    *,
    limit: int | None = None,
    keep: int = 1,
    estimator: str | None = None,
    draws: int | None = None,
    convention: str | None = None,
    t_min: float | None = None,
    seed: int = 0,
    batch: int = 64,
    backend: str = "eager",
    attention: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> FineTuningSet:
    """Make, or go on making, a set of the captioned pictures of ``source`` in folder ``out``.

    It is a set as ``build_set`` makes it, with pictures in the place of candidates: those of one
    caption are its pool, of which the ``keep`` with the highest I(z, p) are kept. Most captions
    have one picture; then ``FineTuningSet.best`` chooses among all of them, which is what
    ``tune(..., real=...)`` does. Scores are those of ``mitune.score`` with one noise for all, so a
    score depends on nothing but its picture and caption.

    The source is read twice: first everything in it is checked and hashed, then it is encoded and
    scored.

    Args:
        model: from ``mitune.load``.
        source: as ``mitune.sets.captioned.read_captioned``. Pictures are resized and cropped at the
            centre to the model's own size.
        out: the set's folder; the same call after an interruption goes on, and ends in the same
            set, bit for bit on one machine. So the model and the pictures (by their contents, not
            their paths), precision, backend, attention and batch have to be the same.
        limit: take only so many pictures, the first.
        keep: how many pictures of a caption are kept.
        estimator: "orthogonal" or "standard"; None is the model's preset, or orthogonal where that
            needs a trajectory.
        draws: (t, noise) pairs for each picture; None is the preset.
        convention, t_min: weights, as ``mitune.Schedule.weights``; None is the preset.
        seed: keys the draws.
        batch: re-noised copies in one call of the model: changes speed and memory, not the result
            beyond rounding.
        backend, attention: what runs the UNet, as ``mitune.generate``.
        progress: called with (pictures done, pictures in all).

    Raises:
        UserError: bad numbers or names; a source that is not as expected, or changes meanwhile; a
            folder with another set; a disk that cannot be written.
    """
    preset = model.preset
    if estimator is None:
        estimator = preset.estimator if preset.estimator in ESTIMATORS else "orthogonal"
    estimating: dict[str, Any] = {
        "estimator": estimator,
        "draws": preset.draws if draws is None else draws,
        "convention": convention or preset.sampler.convention,
        "t_min": preset.sampler.t_min if t_min is None else t_min,
        "seed": seed,
    }
    _check(model, **estimating)
    if batch < 1:
        raise UserError(f"batch is {batch}: expected at least 1")
    prepare(model, backend, attention)  # fail before the folder is created
    captions, digests = [], []
    for item in read_captioned(source, limit):
        item.picture(model.picture_size)  # a damaged one is told now, not after hours of scoring
        captions.append(item.caption)
        digests.append(item.sha256)
    sizes = Counter(captions)  # in the order of their first pictures
    prompts, pools = list(sizes), list(sizes.values())
    settings = {
        "model_fingerprint": model.fingerprint,
        "model_parts": model.parts,
        **estimating,
        "precision": model.precision,
        "backend": backend,
        "attention": attention,
        "batch": batch,
        "source": {
            "pictures": len(digests),
            "sha256": sha256(b"".join(digests)).hexdigest(),
            "size": list(model.picture_size),
        },
    }
    with SetWriter(
        out,
        settings,
        prompts,
        max(pools),
        keep,
        prompts_per_part=_BLOCK,
        pools=pools if len(set(pools)) > 1 else None,
        environment=environment(model.device),
        notes={"model": model.name, "source": printable(str(source))},
    ) as writer:
        pending = set(writer.pending_prompts())
        done = len(digests) - sum(pools[index] for index in pending)
        if pending:
            warn_unrecorded(out, writer.unrecorded)
            again = _again(source, digests)
            runs = {"batch": batch, "backend": backend, "attention": attention}
            for candidate in _score(model, again, prompts, pending, estimating, runs):
                writer.add(candidate)
                if candidate.prompt_index in pending:
                    done += 1
                    if progress:
                        progress(done, len(digests))
    return FineTuningSet.open(out)


def _check(
    model: LatentModel,
    *,
    estimator: str,
    draws: int,
    convention: str,
    t_min: float | None,
    seed: int,
) -> None:
    """Refuse what ``score`` or a set would refuse, before the source is read."""
    if estimator not in ESTIMATORS:
        raise UserError(
            f"estimator {estimator!r} is not known for real pictures: choose one of "
            f"{', '.join(ESTIMATORS)}"
        )
    if draws < 1:
        raise UserError(f"draws is {draws}: expected at least 1")
    if not 0 <= seed < 2**63:
        raise UserError(f"seed is {seed}: expected 0 <= seed < 2**63")
    Schedule.levels(model.scheduler).process.least_t(convention, t_min)


def _again(source: Path | str, digests: Sequence[bytes]) -> Iterator[Captioned]:
    """The same pictures once more."""
    again = read_captioned(source, len(digests), tell=False)
    for item, digest in zip_longest(again, digests):
        if item is None or item.sha256 != digest:
            raise UserError(
                f"{source} changed while it was read: expected the same pictures twice; run the "
                "command again when nothing writes there"
            )
        yield item


def _score(
    model: LatentModel,
    pictures: Iterator[Captioned],
    prompts: Sequence[str],
    pending: set[int],
    estimating: Mapping[str, Any],
    runs: Mapping[str, Any],
) -> Iterator[Candidate]:
    """The pictures as candidates, a block at a time; blocks without a pending prompt are left out.

    A block is made whole, and begins where it would in a run from the start: so every picture of a
    resumed run meets the same batch, and even the rounding of the products is the same.
    """
    number = {prompt: index for index, prompt in enumerate(prompts)}
    seen: Counter[str] = Counter()
    while block := list(islice(pictures, _BLOCK)):
        places = []
        for item in block:
            places.append((number[item.caption], seen[item.caption]))
            seen[item.caption] += 1
        if pending.isdisjoint(prompt_index for prompt_index, _ in places):
            continue
        latents = model.encode_images(
            torch.stack([item.picture(model.picture_size) for item in block])
        )
        captions = [item.caption for item in block]
        scores = score(model, captions, latents, shared_noise=True, **estimating, **runs)
        rows = zip(captions, places, scores.tolist(), latents.float().cpu(), strict=True)
        for caption, (prompt_index, index), value, latent in rows:
            yield Candidate(
                prompt=caption,
                prompt_index=prompt_index,
                index=index,
                seed=estimating["seed"],
                score=value,
                terms=torch.zeros(0, 2),  # nothing sampled it: it took no step
                latent=latent,
            )
