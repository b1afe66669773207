"""Load a checkpoint that is one ``.safetensors`` file, as Civitai and the families' authors publish
them: diffusers translates the names of its weights, and a diffusers folder of the same kind of
model tells the rest (configurations, tokenizers, scheduler).
"""

import re
from pathlib import Path
from typing import Any

import torch

from mitune.core.errors import UserError
from mitune.models.family import Family
from mitune.models.folder import INDEX, load_part, one_line, recognise, unloadable

_CONFIGS = ("*.json", "*.txt", "*.model")
_LACKING = re.compile(r"^(\w+) = \w+\.from_pretrained", re.MULTILINE)
"""How diffusers tells which part a file does not hold."""


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

    if file.suffix != ".safetensors":
        raise UserError(
            f"model {file} is a file: expected a diffusers folder, or a .safetensors checkpoint; "
            "other kinds can run code and are never read"
        )
    source = pipeline if pipeline is not None else _known(file)
    folder = _configurations(file, source)
    family, classes = recognise(source, folder / INDEX)
    kind = getattr(diffusers, family.pipeline)
    if not hasattr(kind, "from_single_file"):
        raise UserError(
            f"model {file} is of a {family.pipeline}, which diffusers cannot load from one file: "
            "expected its diffusers folder"
        )
    parts: dict[str, Any] = dict.fromkeys([*family.unused, *(family.optional - classes.keys())])
    mend = "check it, and that --pipeline names a model of its kind"
    while True:
        try:
            made = kind.from_single_file(str(file), config=str(folder), **parts)
            break
        except SingleFileComponentError as error:
            part = _lacking(error, family)
            if part is None or part in parts or part == family.denoiser:
                raise unloadable(file, error, mend) from error
        except Exception as error:  # the libraries raise anything for a file of another kind
            # Weights that the file lacks have no memory, and diffusers fails to move them.
            if "meta tensor" in str(error):
                error = ValueError(f"it lacks weights that the configurations of {source} describe")
            raise unloadable(file, error, mend) from error
        parts[part] = load_part(source, _weights(source, folder, part), part, classes, family)
    for part in family.networks:
        if (network := getattr(made, part)) is not None:
            _in_float32(file, part, network)
    return family, made


def _in_float32(file: Path, part: str, network: Any) -> None:
    lacking = next((name for name, x in network.state_dict().items() if x.is_meta), None)
    if lacking is not None:
        raise UserError(
            f"model {file}: the {part} lacks weights, such as {lacking}: expected all that its "
            "configuration describes; fetch the file again, or give --pipeline a model of its kind"
        )
    network.to(dtype=torch.float32)


def _known(file: Path) -> str:
    """The name on the hub of the pipeline whose weights have these names and shapes."""
    from diffusers.loaders.single_file_utils import (
        fetch_diffusers_config,
        load_single_file_checkpoint,
    )

    with one_line(file, "fetch the file again"):
        found = fetch_diffusers_config(load_single_file_checkpoint(str(file)))
    return str(found["pretrained_model_name_or_path"])


def _configurations(file: Path, source: str | Path) -> Path:
    """A folder with everything of ``source`` but its weights."""
    if Path(source).is_dir():
        return Path(source)
    return _fetched(file, source, _CONFIGS)


def _weights(source: str | Path, folder: Path, part: str) -> Path:
    """A folder with the weights of ``part`` too."""
    if Path(source).is_dir():
        return folder
    return _fetched(source, source, (*_CONFIGS, f"{part}/*.safetensors"))


def _fetched(model: str | Path, name: str | Path, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    mend = "give --pipeline a diffusers folder of the same kind of model, or connect to the hub"
    with one_line(model, mend):
        return Path(snapshot_download(str(name), allow_patterns=list(patterns)))


def _lacking(error: Exception, family: Family) -> str | None:
    found = _LACKING.search(str(error))
    return found[1] if found and found[1] in family.networks else None
