"""The authors' sets: ``{prompt}_{seed}/`` with ``prompt_embeds.pt``, ``pooled_prompt_embeds.pt``,
``latents.pt`` and ``image.png`` of each selected picture."""

import pickle
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mitune.compat.selection import Selected
from mitune.core.errors import UserError
from mitune.engine.candidate import Candidate
from mitune.models.protocol import LatentModel
from mitune.sets import FineTuningSet, SetWriter

_SLASH = "\u2215"
"""Stands for / in the name of a folder."""
_LONGEST = 200
"""Bytes of the prompt in the name of a folder; ``prompt.txt`` has it all."""


def write_selected(folder: Path | str, prompt: str, seed: int, selected: Any) -> Path:
    """Write one selected picture in the authors' layout, and the whole prompt in ``prompt.txt``.

    Args:
        folder: of the set.
        prompt, seed: what it was drawn from.
        selected: of a pipeline in ``mitune.compat``, as a tuple or as ``Selected``.

    Returns:
        Its own folder.
    """
    own = Selected(*selected)
    place = Path(folder) / f"{_short(prompt)}_{seed}"
    place.mkdir(parents=True, exist_ok=True)
    torch.save(own.prompt_embeds.cpu(), place / "prompt_embeds.pt")
    if own.pooled_prompt_embeds is not None:
        torch.save(own.pooled_prompt_embeds.cpu(), place / "pooled_prompt_embeds.pt")
    torch.save(own.latents.cpu(), place / "latents.pt")
    own.images[0].save(place / "image.png")
    (place / "prompt.txt").write_text(prompt, encoding="utf-8")
    return place


def _short(prompt: str) -> str:
    """The prompt as a name that every file system takes; of a long one its beginning and a digest,
    so that two prompts never share a folder."""
    name = prompt.replace("/", _SLASH)
    whole = name.encode()
    if len(whole) <= _LONGEST:
        return name
    digest = sha256(whole).hexdigest()[:12]
    return f"{whole[: _LONGEST - 13].decode(errors='ignore')} {digest}"


def import_set(folder: Path | str, out: Path | str, model: LatentModel) -> FineTuningSet:
    """Make a fine-tuning set of a folder in the authors' layout. Its scores are not known there, so
    they are 0, and every picture is selected.

    Args:
        folder: with a folder ``{prompt}_{seed}`` for each picture.
        out: folder of the new set.
        model: whose latents they are.

    Raises:
        UserError: there is no such picture, or a file is missing, damaged, or of another model.
    """
    found = [
        (_prompt(place), _latent(place / "latents.pt", model))
        for place in sorted(Path(folder).glob("*_*/"))
    ]
    if not found:
        raise UserError(
            f"{folder} holds no folder PROMPT_SEED: expected what the authors' scripts or "
            "write_selected leave"
        )
    sizes = Counter(prompt for prompt, _ in found)
    pools = list(sizes.values())
    settings = {
        "model_fingerprint": model.fingerprint,
        "model_parts": model.parts,
        "source": {"pictures": len(found), "layout": "PROMPT_SEED"},
    }
    prompts = {prompt: number for number, prompt in enumerate(sizes)}
    seen: Counter[str] = Counter()
    with SetWriter(
        out,
        settings,
        list(prompts),
        max(pools),
        max(pools),
        pools=pools if len(set(pools)) > 1 else None,
        notes={"model": model.name, "source": str(folder)},
    ) as writer:
        for prompt, latent in found:
            writer.add(
                Candidate(
                    prompt=prompt,
                    prompt_index=prompts[prompt],
                    index=seen[prompt],
                    seed=0,
                    score=0.0,
                    terms=torch.zeros(1, 2),
                    latent=latent,
                )
            )
            seen[prompt] += 1
    return FineTuningSet.open(out)


def _prompt(place: Path) -> str:
    text, _, seed = place.name.rpartition("_")
    whole = place / "prompt.txt"
    if not seed.removeprefix("-").isdecimal():
        raise UserError(f"folder {place} is not named PROMPT_SEED: expected a number at its end")
    return whole.read_text(encoding="utf-8") if whole.is_file() else text.replace(_SLASH, "/")


def _latent(path: Path, model: LatentModel) -> Tensor:
    expected = f"latents of shape {list(model.latent_shape)}, saved by torch.save"
    try:
        # Only tensors and plain values: torch refuses every other pickled object.
        latent = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: expected {expected}") from None
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read ({reason}): expected {expected}") from error
    shapes = (model.latent_shape, (1, *model.latent_shape))
    if not isinstance(latent, Tensor) or tuple(latent.shape) not in shapes:
        shape = list(latent.shape) if isinstance(latent, Tensor) else type(latent).__name__
        raise UserError(f"{path} holds {shape}: expected {expected}")
    return latent.float().reshape(model.latent_shape)
