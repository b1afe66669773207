"""Load a checkpoint that is one ``.safetensors`` file, as Civitai and the families' authors publish
them: diffusers translates the names of its weights, and a diffusers folder of the same kind of
model tells the rest (configurations, tokenizers, scheduler).
"""

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from mitune.core.errors import UserError
from mitune.models.family import Family
from mitune.models.folder import INDEX, load_part, one_line, recognise, unloadable

_CONFIGS = ("*.json", "*.txt", "*.model")
_LACKING = re.compile(r"^(\w+) = \w+\.from_pretrained", re.MULTILINE)
"""How diffusers tells which part a file does not hold."""
_PLACES = {
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l."),
    "text_encoder_2": ("conditioner.embedders.1.", "text_encoders.clip_g."),
    "text_encoder_3": ("text_encoders.t5xxl.",),
}
"""Where files hold a part: a file that has such names, and of which diffusers does not know the
part, is damaged."""
_WHOLE = {
    "unet": ("model.diffusion_model.",),
    "text_encoder": ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."),
}
"""Names under which all tensors go into a part."""
_logger = logging.getLogger(__name__)


def load_single_file(file: Path, pipeline: str | Path | None) -> tuple[Family, Any]:
    """Load a pipeline in float32 on the CPU; returns its family and the pipeline.

    Args:
        file: a ``.safetensors`` file in the layout of the family's authors.
        pipeline: a diffusers folder, or a name on the hub, of which configurations, tokenizers and
            scheduler are taken, and the weights of the parts that the file does not hold; None: the
            one that diffusers finds for the file's weights, on the hub or in its cache.

    Raises:
        UserError: another kind of file; another family; a part that neither has.
    """
    import diffusers
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    held = _held(file)
    source = pipeline if pipeline is not None else _known(file)
    folder = _configurations(source)
    family, classes = recognise(source, folder / INDEX)
    kind = getattr(diffusers, family.pipeline)
    if not hasattr(kind, "from_single_file"):
        raise UserError(
            f"pipeline {source} is a {family.pipeline}, which diffusers cannot load from one file: "
            f"expected the diffusers folder of {file} itself"
        )
    parts: dict[str, Any] = dict.fromkeys([*family.unused, *(family.optional - classes.keys())])
    while True:
        try:
            made = kind.from_single_file(str(file), config=str(folder), **parts)
            break
        except SingleFileComponentError as error:
            part = _lacking(error, family)
            damaged = part is not None and any(n.startswith(_PLACES.get(part, ())) for n in held)
            if part is None or part in parts or part == family.denoiser or damaged:
                raise _unfit(file, source, error) from error
        except Exception as error:  # the libraries raise anything for a file of another kind
            raise _unfit(file, source, error) from error
        parts[part] = load_part(source, _weights(source, folder, part), part, classes, family)
        _logger.warning("model %s lacks the %s: that of %s is taken", file, part, source)
    for part in family.networks:
        if (network := getattr(made, part)) is not None:
            _check(file, source, part, network, held)
            network.to(dtype=torch.float32)
    return family, made


def _held(file: Path) -> dict[str, int]:
    """The file's tensors, by name, with their numbers of elements."""
    if file.resolve().suffix != ".safetensors":
        hint = "; rename it" if file.suffix.lower() == ".safetensors" else ""
        raise UserError(
            f"model {file} is a file: expected a diffusers folder, or a checkpoint whose name ends "
            f"in .safetensors{hint}; other kinds can run code and are never read"
        )
    with one_line(file, "fetch the file again"), safe_open(file, framework="pt") as content:
        names = {
            name: math.prod(content.get_slice(name).get_shape())
            for name in content.keys()  # noqa: SIM118
        }
    if any(".lora_" in name or name.startswith("lora_") for name in names):
        raise UserError(
            f"model {file} is a LoRA: expected a whole checkpoint; give it as --adapter, and its "
            "base as --model"
        )
    return names


def _unfit(file: Path, source: str | Path, error: Exception) -> UserError:
    """The one line for what diffusers raises. Weights that a file lacks have no memory, which it
    fails to move, or are missing keys; those of another shape it explains to programmers."""
    reason, text = error, str(error)
    if "meta tensor" in text or isinstance(error, KeyError):
        reason = ValueError(f"it lacks weights that the configurations of {source} describe")
    elif "low_cpu_mem_usage" in text:
        reason = ValueError(f"its weights have other shapes than {source} describes")
    return unloadable(file, reason, "check it, and that --pipeline names a model of its kind")


def _check(
    file: Path, source: str | Path, part: str, network: Any, held: Mapping[str, int]
) -> None:
    """Raise UserError unless all weights of a network came from the file, and all of the file's for
    it, as far as their names tell, went into it."""
    state = network.state_dict()
    lacking = next((name for name, x in state.items() if x.is_meta), None)
    if lacking is not None:
        raise UserError(
            f"model {file}: the {part} lacks weights, such as {lacking}: expected all that "
            f"{source} describes; fetch the file again, or give --pipeline a model of its kind"
        )
    own = [
        name
        for name in held
        if name.startswith(_WHOLE.get(part, ())) and not name.endswith("position_ids")
    ]
    have, given = sum(x.numel() for x in state.values()), sum(held[name] for name in own)
    if own and given > have:
        raise UserError(
            f"model {file}: the {part} has no place for {given - have} of the file's {given} "
            f"numbers: expected the weights that {source} describes; give --pipeline a model of "
            "its kind"
        )


def _known(file: Path) -> str:
    """The name on the hub of the pipeline whose weights have these names and shapes."""
    from diffusers.loaders.single_file_utils import (
        fetch_diffusers_config,
        load_single_file_checkpoint,
    )

    with one_line(file, "fetch the file again"):
        found = fetch_diffusers_config(load_single_file_checkpoint(str(file)))
    return str(found["pretrained_model_name_or_path"])


def _configurations(source: str | Path) -> Path:
    """A folder with everything of ``source`` but its weights."""
    return Path(source) if Path(source).is_dir() else _fetched(source, _CONFIGS)


def _weights(source: str | Path, folder: Path, part: str) -> Path:
    """A folder with the weights of ``part`` too."""
    if Path(source).is_dir():
        return folder
    return _fetched(source, (*_CONFIGS, f"{part}/*.safetensors"))


def _fetched(name: str | Path, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=list(patterns)))
    except Exception as error:  # a name, a network or a right that is not there
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"pipeline {name} is not there ({reason}): expected a diffusers folder, or a name on "
            "the hub that this machine can reach, of a model of the file's kind"
        ) from error


def _lacking(error: Exception, family: Family) -> str | None:
    found = _LACKING.search(str(error))
    return found[1] if found and found[1] in family.networks else None
