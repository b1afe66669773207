"""Pictures in files as benchmarks' official scorers read them: ``PROMPT_000000.png``, with numbers
from 0."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mitune.config.choices import Acting
from mitune.config.sets import GenerateConfig
from mitune.config.shard import WHOLE, Shard
from mitune.core.errors import UserError
from mitune.core.files import atomic_write, file_lock, make_folder
from mitune.core.images import as_pictures, png_of
from mitune.core.provenance import as_json
from mitune.core.reading import read_file, reason
from mitune.engine.candidate import Candidate
from mitune.engine.request import Request
from mitune.engine.slot_count import with_slots
from mitune.engine.stream import generate
from mitune.methods.sampling.sample import Method, sample
from mitune.models.protocol import LatentModel

_LONGEST = 200
"""Bytes of a prompt in a file's name."""


def file_names(prompts: Sequence[str], images: int) -> list[str]:
    """The name of each picture, by prompt and index. The scorers read the prompt up to the first
    "_", so that one, and what no name may have, becomes a space."""
    found = []
    for number in range(len(prompts) * images):
        text = re.sub(r"[_/\\\0\n\r\t]", " ", prompts[number // images])
        short = text.encode()[:_LONGEST].decode(errors="ignore")
        found.append(f"{short}_{number:06d}.png")
    return found


def picture_settings(
    model: LatentModel,
    config: GenerateConfig,
    *,
    adapter: str | None,
    method: Acting,
    best_of: int,
) -> dict[str, Any]:
    """What drawn pictures depend on beside their prompts, as plain JSON; ``adapter`` is the digest
    of the one on the model."""
    return {
        "images": config.candidates,
        "best_of": best_of,
        "method": method,
        "sampler": asdict(config.sampler),
        "seed": config.seed,
        "size": list(model.picture_size),
        "precision": config.runtime.precision or model.precision,
        "model_fingerprint": model.fingerprint,
        "model_parts": model.parts,
        "adapter": adapter,
    }


def check_manifest(out: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Write what a folder's pictures depend on into its file ``name``, or see that it is the same.

    Raises:
        UserError: the folder's pictures are of other settings; names the first.
    """
    path = out / name
    make_folder(out)
    with file_lock(out, f"-{name}", wait=60):  # of processes with a share each, one is the first
        if not path.is_file():
            atomic_write(path, as_json(dict(settings), indent=1).encode())
            return
    try:
        there = dict(json.loads(read_file(path)))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({reason(error)}): expected what a former run left there; give "
            "another --out"
        ) from None
    here = json.loads(as_json(dict(settings)))
    for key in sorted({*there, *here}):
        if there.get(key) != here.get(key):
            raise UserError(
                f"{out} has pictures with {key} {_short(there.get(key))}, here it is "
                f"{_short(here.get(key))}: expected the same, or another --out"
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def draw_pictures(
    model: LatentModel,
    prompts: Sequence[str],
    folder: Path,
    config: GenerateConfig,
    *,
    method: Method | None = None,
    best_of: int = 1,
    shard: Shard = WHOLE,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draw the pictures that are not there yet into ``folder``, which holds nothing else.

    Args:
        model: with or without an adapter.
        prompts: texts.
        folder: of the pictures.
        config: pictures of each prompt, sampler, seed, runtime.
        method: what acts while a picture is sampled; None: nothing beyond guidance.
        best_of: so many candidates for each picture, of which the one with the most mutual
            information along its own path is kept. Picture i is of candidates i * best_of and on.
        shard: the share of the pictures that this process draws; others may draw theirs into the
            same folder at the same time.
        progress: called with (pictures there, pictures in all), of the share.

    Raises:
        UserError: another run writes there, the disk cannot be written, or what the method refuses.
    """
    make_folder(folder)
    names = file_names(prompts, config.candidates)
    own = [number for number in range(len(names)) if shard.takes(number)]
    # Not in the folder itself: scorers take every file there for a picture.
    with file_lock(folder.parent, shard.name):
        missing = [number for number in own if not (folder / names[number]).is_file()]
        if not missing:
            return
        work = [
            Request(prompt=prompts[place], prompt_index=place, index=index * best_of + further)
            for place, index in (divmod(number, config.candidates) for number in missing)
            for further in range(best_of)
        ]
        runtime = with_slots(model, config.runtime, config.sampler, len(work))
        config = replace(config, runtime=runtime, scored=config.scored or best_of > 1)
        done = len(own) - len(missing)
        made = (
            generate(model, prompts, config, requests=work)
            if method is None
            else sample(model, prompts, method, config, requests=work)
        )
        for candidate in _best(made, best_of):
            (picture,) = as_pictures(model.decode(candidate.latent[None]))
            number = candidate.prompt_index * config.candidates + candidate.index // best_of
            atomic_write(folder / names[number], png_of(picture))
            done += 1
            if progress is not None:
                progress(done, len(own))


def _best(made: Iterable[Candidate], best_of: int) -> Iterator[Candidate]:
    """The best of every ``best_of`` candidates, as soon as all of them are there."""
    waiting: dict[tuple[int, int], list[Candidate]] = {}
    for candidate in made:
        key = (candidate.prompt_index, candidate.index // best_of)
        waiting.setdefault(key, []).append(candidate)
        if len(waiting[key]) == best_of:
            # A score that is not a number comes last.
            yield max(waiting.pop(key), key=lambda c: (c.score == c.score, c.score, -c.index))
