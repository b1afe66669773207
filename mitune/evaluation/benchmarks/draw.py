"""The pictures of a benchmark, in files that its official scorers read:
``CATEGORY/samples/PROMPT_000000.png``, numbered from 0 over the category."""

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mitune.config.sets import GenerateConfig
from mitune.core.errors import UserError
from mitune.core.files import atomic_write, file_lock, make_folder
from mitune.core.images import as_pictures
from mitune.core.provenance import as_json
from mitune.core.reading import read_file, reason
from mitune.engine.request import Request
from mitune.engine.slot_count import with_slots
from mitune.engine.stream import generate
from mitune.models.protocol import LatentModel

MANIFEST = "benchmark.json"
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


def check_manifest(out: Path, settings: Mapping[str, Any]) -> None:
    """Write what a benchmark's pictures depend on, or see that it is the same.

    Raises:
        UserError: the folder is another benchmark's, or one of other settings; names the first.
    """
    path = out / MANIFEST
    if not path.is_file():
        make_folder(out)
        atomic_write(path, as_json(dict(settings), indent=1).encode())
        return
    try:
        there = dict(json.loads(read_file(path)))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({reason(error)}): expected what a benchmark left there; give "
            "another --out"
        ) from None
    here = json.loads(as_json(dict(settings)))
    for name in sorted({*there, *here}):
        if there.get(name) != here.get(name):
            raise UserError(
                f"{out} is a benchmark with {name} {_short(there.get(name))}, here it is "
                f"{_short(here.get(name))}: expected the same, or another --out"
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def draw_pictures(
    model: LatentModel,
    prompts: Sequence[str],
    folder: Path,
    config: GenerateConfig,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draw the pictures of a category that are not there yet into ``folder``.

    Args:
        model: with or without an adapter.
        prompts: of the category.
        folder: ``samples``.
        config: pictures of each prompt, sampler, seed, runtime.
        progress: called with (pictures there, pictures in all).

    Raises:
        UserError: another run writes there, or the disk cannot be written.
    """
    make_folder(folder)
    names = file_names(prompts, config.candidates)
    with file_lock(folder.parent):  # scorers take every file in samples for a picture
        missing = [number for number, name in enumerate(names) if not (folder / name).is_file()]
        if not missing:
            return
        work = [
            Request(
                prompt=prompts[number // config.candidates],
                prompt_index=number // config.candidates,
                index=number % config.candidates,
            )
            for number in missing
        ]
        runtime = with_slots(model, config.runtime, config.sampler, len(work))
        done = len(names) - len(missing)
        made = generate(model, prompts, replace(config, runtime=runtime), requests=work)
        for candidate in made:
            (picture,) = as_pictures(model.decode(candidate.latent[None]))
            content = io.BytesIO()
            picture.save(content, format="PNG")
            name = names[candidate.prompt_index * config.candidates + candidate.index]
            atomic_write(folder / name, content.getvalue())
            done += 1
            if progress is not None:
                progress(done, len(names))
