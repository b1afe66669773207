"""Load a pipeline from a diffusers folder or a hub name, and make sure that every weight was read.

diffusers and transformers fill weights that a file lacks with random numbers and only log it. So
each network is loaded by itself, and what its library reports becomes an error here.
"""

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mitune.core.errors import UserError
from mitune.models.family import Family, expected, families, refused

INDEX = "model_index.json"
"""The file of a diffusers folder that names the pipeline's class and parts."""
_PREFIX = "text_model."
"""Of every name in a CLIP text encoder in transformers before 5, which does not know the names that
files written by 5 have."""


def load_folder(source: str | Path, variant: str | None) -> tuple[Family, Any]:
    """Load a pipeline in float32 on the CPU, from safetensors files only; returns its family and
    the pipeline.

    Args:
        source: a folder with ``model_index.json``, or a name on the Hugging Face hub (its cache and
            ``HF_HUB_OFFLINE`` are honoured).
        variant: of the weights, such as "fp16"; a part without this variant uses its plain weights.

    Raises:
        UserError: no such folder or name; another family; a part that is missing, damaged, or only
            in files of a kind that is not read; weights that the file lacks, or that the part has
            no place for.
    """
    # Imported here, because it imports every part of diffusers and transformers.
    import diffusers

    folder = _folder(source, variant)
    family, classes = recognise(source, folder / INDEX)
    variants = _variants(source, folder, variant, family, classes)
    networks = {
        part: _network(source, folder, part, own, classes[part], family)
        for part, own in variants.items()
    }
    absent = dict.fromkeys([*family.unused, *(family.optional - classes.keys())])
    with one_line(source, "restore its files"):
        pipeline = getattr(diffusers, family.pipeline).from_pretrained(
            str(folder), **networks, **absent, **family.options
        )
    return family, pipeline


@contextmanager
def one_line(source: str | Path, mend: str) -> Iterator[None]:
    """Turn an error of the libraries into one line; a damaged folder makes them raise anything."""
    try:
        yield
    except Exception as error:
        raise unloadable(source, error, mend) from error


def unloadable(source: str | Path, error: Exception, mend: str) -> UserError:
    """The one line for an error of the libraries: its first line, and what to do."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    return UserError(
        f"model {source} cannot be loaded ({reason}): expected 'shapes', a diffusers folder, a "
        f".safetensors checkpoint, or a name on the hub that this machine can reach; {mend}"
    )


def _folder(source: str | Path, variant: str | None) -> Path:
    """The folder itself, or the one in the hub's cache."""
    from diffusers import DiffusionPipeline

    folder = Path(source)
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source), re.ASCII) or str(source)[0] == ".":
        raise UserError(
            f"model folder {source} is not there: expected 'shapes', a diffusers folder, or a name "
            "on the hub, such as organisation/name"
        )
    with one_line(source, "check its spelling and the network"):
        unused = dict.fromkeys(name for family in families() for name in family.unused)
        fetched = DiffusionPipeline.download(
            str(source), use_safetensors=True, variant=variant, **unused
        )
        return Path(fetched)


def recognise(source: str | Path, file: Path) -> tuple[Family, dict[str, tuple[str, str]]]:
    """The family of the folder's pipeline, and (library, class) of each of its parts."""
    if not file.is_file():
        raise UserError(
            f"model folder {source} holds no {INDEX}: expected a diffusers pipeline folder"
        )
    try:
        index = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"model {source}: {INDEX} cannot be read ({error}): expected what save_pretrained "
            "writes; restore it"
        ) from error
    index = index if isinstance(index, dict) else {}
    named = {
        name: (str(entry[0]), str(entry[1]))
        for name, entry in index.items()
        if isinstance(entry, list) and len(entry) == 2 and entry[1] is not None
    }
    own = index.get("_class_name", "pipeline of no class")
    kinds = {name: kind for name, (_, kind) in named.items()}
    known = families()
    # By its class; else by its parts and their classes, since other programs may write a class name
    # of their own.
    family = next((family for family in known if family.pipeline == own), None) or next(
        (f for f in known if f.fits(_parts(named, f)) and f.foreign_part(kinds) is None), None
    )
    if family is None and len(known) > 1:
        parts = ", ".join(sorted(named)) or "no parts"
        raise refused(str(source), str(own), f" of {parts}")
    family = family or known[0]
    if others := sorted(_parts(named, family) - family.components.keys()):
        raise UserError(
            f"model {source} is a {own} with {', '.join(others)}: expected {expected()}; other "
            "families are not supported yet"
        )
    if missing := sorted(family.components.keys() - named.keys() - family.optional):
        raise UserError(
            f"model {source} is a {own} without {', '.join(missing)}: expected {family.title}"
        )
    if (wrong := family.foreign_part(kinds)) is not None:
        allowed = " or ".join(family.components[wrong] or ())
        raise UserError(f"model {source}: its {wrong} is a {named[wrong][1]}: expected {allowed}")
    return family, named


def _parts(named: Mapping[str, Any], family: Family) -> set[str]:
    return named.keys() - set(family.unused)


def _variants(
    source: str | Path,
    folder: Path,
    variant: str | None,
    family: Family,
    named: Mapping[str, tuple[str, str]],
) -> dict[str, str | None]:
    """For each network that the pipeline has, the variant if the part has its files, else None for
    the plain weights."""
    found: dict[str, str | None] = {}
    for part, stem in family.networks.items():
        if part not in named:
            continue
        files = sorted(file.name for file in (folder / part).glob("*"))
        plain = any(f"{stem}.safetensors{end}" in files for end in ("", ".index.json"))
        of_variant = re.compile(rf"{stem}\.([^.]+?)(-\d+-of-\d+)?\.safetensors")
        others = list(dict.fromkeys(m[1] for f in files if (m := of_variant.fullmatch(f))))
        found[part] = variant if variant in others else None
        if found[part] is None and not plain:
            raise UserError(f"model {source}: the {part} {_lacking(part, stem, files, others)}")
    if variant is not None and not any(found.values()):
        part, stem = next(iter(family.networks.items()))
        raise UserError(
            f"model {source} has no weights of the variant {variant!r}: expected files such as "
            f"{part}/{stem}.{variant}.safetensors; leave the variant out for the plain ones"
        )
    return found


def _lacking(part: str, stem: str, files: list[str], variants: list[str]) -> str:
    wanted = f"{part}/{stem}.safetensors"
    if variants:
        return (
            f"has weights of the variant {', '.join(variants)} only: expected {wanted}; give "
            f"--variant {variants[0]} (variant={variants[0]!r} in Python)"
        )
    if pickled := [name for name in files if name.endswith((".bin", ".ckpt", ".pt", ".pth"))]:
        return (
            f"has pickled weights only ({pickled[0]}), which can run code and are never read: "
            f"expected {wanted}; where you trust the file, convert it with "
            "DiffusionPipeline.from_pretrained(folder, use_safetensors=False)"
            ".save_pretrained(new_folder)"
        )
    return f"has no weights: expected {wanted}; fetch the model again"


def load_part(
    source: str | Path,
    folder: Path,
    part: str,
    classes: Mapping[str, tuple[str, str]],
    family: Family,
) -> Any:
    """One network of a diffusers folder, in float32 on the CPU. Raises UserError as
    :func:`load_folder`."""
    _variants(source, folder, None, family, {part: classes[part]})
    return _network(source, folder, part, None, classes[part], family)


def _without_prefix(report: Mapping[str, Any]) -> bool:
    """Whether a text encoder lacks nothing but the prefix of its file's names."""
    missing, left = set(report["missing_keys"]), set(report["unexpected_keys"])
    return bool(missing) and missing == {_PREFIX + name for name in left}


def _network(
    source: str | Path,
    folder: Path,
    part: str,
    variant: str | None,
    named: tuple[str, str],
    family: Family,
) -> Any:
    """Load one network, and make sure that every weight came from its file."""
    # The class is one of the family's, so it is in one of these libraries, whatever the index says.
    library = "transformers" if named[0] == "transformers" else "diffusers"
    kind: Any = getattr(importlib.import_module(library), named[1])
    harmless = re.compile(rf"(^|\.)({'|'.join(map(re.escape, family.harmless)) or '$.'})$")
    options = {"dtype" if library == "transformers" else "torch_dtype": torch.float32}
    with one_line(source, f"restore the files in {part}/"):

        def load(**more: Any) -> Any:
            return kind.from_pretrained(
                str(folder),
                subfolder=part,
                variant=variant,
                use_safetensors=True,
                output_loading_info=True,
                **options,
                **more,
            )

        made, report = load()
        if _without_prefix(report):
            made, report = load(key_mapping={rf"^(?!{_PREFIX}|text_projection\.)": _PREFIX})
    faults = []
    for key, what in (
        ("missing_keys", "lacks"),
        ("unexpected_keys", "has no place for"),
        ("mismatched_keys", "has in another shape"),
    ):
        # A mismatched key comes with its shapes.
        keys = sorted(each if isinstance(each, str) else str(each[0]) for each in report[key])
        if keys := [each for each in keys if not harmless.search(each)]:
            faults.append(f"{what} {len(keys)} weights, such as {keys[0]}")
    if faults:
        raise UserError(
            f"model {source}: the {part} {' and '.join(faults)}: expected the weights that "
            f"{part}/config.json describes, no more and no less; restore the two files"
        )
    return made
