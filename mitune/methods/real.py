"""Build a fine-tuning set of real captioned pictures: encode them once, score them by re-noising,
and keep the best by MI (Wang et al., appendix D.1, Table 7)."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import torch

from mitune.config.options import with_options
from mitune.config.sets import RealConfig, ScoreConfig
from mitune.core.errors import UserError, printable
from mitune.core.progress import warn_unrecorded
from mitune.core.provenance import environment
from mitune.engine.candidate import Candidate
from mitune.models.buckets import buckets, nearest
from mitune.models.protocol import LatentModel
from mitune.runtime.prepared import at_size, prepare
from mitune.scoring.score import score
from mitune.sets import FineTuningSet, SetWriter
from mitune.sets.captioned import Captioned, read_captioned

_BLOCK = 64
"""Number of pictures that are encoded and scored together, and of captions in one part."""


def build_real_set(
    model: LatentModel,
    source: Path | str,
    out: Path | str,
    config: RealConfig | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> FineTuningSet:
    """Build a set from the captioned pictures of ``source`` in folder ``out``, or resume building
    it.

    The set is like one of ``build_set``, with pictures instead of candidates: the pictures of one
    caption are its pool, and the ``keep`` with the highest I(z, p) are kept. Most captions have
    only one picture; ``FineTuningSet.best`` then chooses among all pictures, and
    ``tune(..., real=...)`` uses it. Scores are those of ``mitune.score`` with shared noise, so a
    score depends only on its picture and caption.

    The source is read twice: the first time to check and hash everything in it, the second time to
    encode and score it.

    Args:
        model: from ``mitune.load``.
        source: as in ``mitune.sets.captioned.read_captioned``. Pictures are resized and
            centre-cropped, to the model's own size or, with ``buckets``, to the nearest shape.
        out: the set's folder. After an interruption, the same call resumes and produces the same
            set, bit for bit on one machine. So the model and the pictures (by their contents, not
            their paths), precision, backend, attention and batch have to be the same.
        config: how many pictures to keep and how to score them; None takes the model's preset.
        progress: called with (pictures done, pictures in all).
        options: fields of ``RealConfig`` and of its nested configs by name, such as ``draws=16``.
            They override ``config``.

    Raises:
        UserError: for numbers or names that are not valid, a source that is not as expected or that
            changes while it is read, a folder that holds another set, or a disk that cannot be
            written.
    """
    config = with_options(config or RealConfig.of(model.preset), options)
    scoring = replace(config.score, shared_noise=True)
    process = model.process
    convention: str = scoring.convention or next(iter(process.conventions))
    process.least_t(convention, scoring.t_min)  # refuse bad values before reading the source
    runtime = scoring.runtime
    prepare(model, runtime)  # fail before the folder is created
    shapes = _Shapes(model, config.buckets)
    captions, digests = [], []
    for item in read_captioned(source, config.limit):
        item.picture(shapes.of(item))  # report a damaged one now, not after hours of scoring
        captions.append(item.caption)
        digests.append(item.sha256)
    sizes = Counter(captions)  # keeps the order of each caption's first picture
    prompts, pools = list(sizes), list(sizes.values())
    settings = {
        "model_fingerprint": model.fingerprint,
        "model_parts": model.parts,
        "estimator": scoring.estimator,
        "draws": scoring.draws,
        "convention": convention,
        "t_min": scoring.t_min,
        "seed": scoring.seed,
        "precision": model.precision,
        "backend": runtime.backend,
        "attention": runtime.attention,
        "batch": scoring.batch,
        "source": {
            "pictures": len(digests),
            "sha256": sha256(b"".join(digests)).hexdigest(),
            "size": list(model.picture_size),
        },
    }
    if config.buckets:
        settings["buckets"] = [list(size) for size in shapes.sizes]
    with SetWriter(
        out,
        settings,
        prompts,
        max(pools),
        config.keep,
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
            for candidate in _score(shapes, again, prompts, pending, scoring):
                writer.add(candidate)
                if candidate.prompt_index in pending:
                    done += 1
                    if progress:
                        progress(done, len(digests))
    return FineTuningSet.open(out)


def _again(source: Path | str, digests: Sequence[bytes]) -> Iterator[Captioned]:
    """Yield the same pictures a second time, and fail if one has changed."""
    again = read_captioned(source, len(digests), tell=False)
    for item, digest in zip_longest(again, digests):
        if item is None or item.sha256 != digest:
            raise UserError(
                f"{source} changed while it was read: expected the same pictures twice; run the "
                "command again when nothing writes there"
            )
        yield item


class _Shapes:
    """The sizes at which pictures are taken, and the model at each.

    Args:
        model: at its own size, prepared for what runs it.
        several: whether there are others.
    """

    def __init__(self, model: LatentModel, several: bool) -> None:
        height, width = model.latent_shape[-2:]
        self.sizes = buckets(model) if several else [(height, width)]
        self._scale = model.picture_size[0] // height
        self._models = {(height, width): model}

    def place(self, item: Captioned) -> tuple[int, int]:
        """(height, width) of the latents of a picture."""
        return self.sizes[0] if len(self.sizes) == 1 else nearest(self.sizes, *item.size)

    def of(self, item: Captioned) -> tuple[int, int]:
        """(height, width) in pixels at which a picture is taken."""
        height, width = self.place(item)
        return height * self._scale, width * self._scale

    def model(self, place: tuple[int, int]) -> LatentModel:
        """The model at that size of latents."""
        if place not in self._models:
            self._models[place] = at_size(next(iter(self._models.values())), place)
        return self._models[place]


def _score(
    shapes: _Shapes,
    pictures: Iterator[Captioned],
    prompts: Sequence[str],
    pending: set[int],
    config: ScoreConfig,
) -> Iterator[Candidate]:
    """Yield the pictures as candidates, one block at a time; skip blocks without a pending prompt.

    Blocks are always whole and start at the same pictures as in an uninterrupted run. So each
    picture of a resumed run is in the same batch, and even the rounding of the matrix products is
    the same.
    """
    number = {prompt: index for index, prompt in enumerate(prompts)}
    seen: Counter[str] = Counter()
    while block := list(islice(pictures, _BLOCK)):
        numbered = []
        for item in block:
            numbered.append((item, number[item.caption], seen[item.caption]))
            seen[item.caption] += 1
        if pending.isdisjoint(prompt_index for _, prompt_index, _ in numbered):
            continue
        places = [shapes.place(item) for item in block]
        for place in dict.fromkeys(places):
            same = [row for row, own in zip(numbered, places, strict=True) if own == place]
            yield from _scored(shapes.model(place), same, config)


def _scored(
    model: LatentModel, numbered: Sequence[tuple[Captioned, int, int]], config: ScoreConfig
) -> Iterator[Candidate]:
    """Score pictures of one size, each with the number of its prompt and its own in that pool."""
    latents = model.encode_images(
        torch.stack([item.picture(model.picture_size) for item, *_ in numbered])
    )
    scores = score(model, [item.caption for item, *_ in numbered], latents, config)
    rows = zip(numbered, scores.tolist(), latents.float().cpu(), strict=True)
    for (item, prompt_index, index), value, latent in rows:
        yield Candidate(
            prompt=item.caption,
            prompt_index=prompt_index,
            index=index,
            seed=config.seed,
            score=value,
            terms=torch.zeros(0, 2),  # a real picture takes no sampling steps
            latent=latent,
        )
