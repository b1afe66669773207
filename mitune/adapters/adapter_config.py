"""What an adapter's file may contain. Of the peft configuration in its header, fields that decide
the weights are checked and used; fields that would change the weights in an unsupported way are
refused by name."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from peft import LoraConfig
from torch import Tensor

from mitune.core.errors import UserError

WRITTEN = (
    "r",
    "lora_alpha",
    "target_modules",
    "rank_pattern",
    "alpha_pattern",
    "use_dora",
    "use_rslora",
)
"""Fields that every file gets. No others: the LoraConfig of another peft version refuses fields it
does not know, and every version knows these."""

CHOOSING = ("exclude_modules", "layers_to_transform", "layers_pattern")
"""Fields that choose layers in addition to target_modules. peft is given them, and a file that has
them keeps them."""

HARMLESS = {
    "peft_version": "who wrote it",
    "auto_mapping": "how peft finds the base model",
    "base_model_name_or_path": "a name; the fingerprint is what tells the base model",
    "revision": "of that name",
    "task_type": "which of peft's wrappers goes around the model",
    "inference_mode": "whether the tensors are frozen, which the caller decides",
    "lora_dropout": "of the training that is over",
    "fan_in_fan_out": "peft itself sets it aside on linear layers and convolutions",
    "loftq_config": "used with init_lora_weights loftq alone",
    "eva_config": "used with init_lora_weights eva alone",
    "corda_config": "used with init_lora_weights corda alone",
    "lora_ga_config": "used with init_lora_weights lora_ga alone",
    "megatron_core": "used with megatron_config alone",
    "qalora_group_size": "used with use_qalora alone",
    "runtime_config": "where DoRA is computed",
}
"""Fields that change no weight, whatever their value, with the reason."""

STARTS = ("gaussian", "eva", "orthogonal", "mica")
"""Values of init_lora_weights, besides true and false, that leave the base's weights alone: they
only decide the initial A and B. The others (pissa, olora, corda, loftq, lora_ga) subtract s B A
from the base at the start, so the adapter belongs to weights that no file holds."""

SUFFIXES = (".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector")
"""Ends of peft's names of an adapter's tensors."""

_LARGEST = 3.4e38  # of float32, in which the scaled update is computed

_ROOM = 1024  # a rank that peft may allocate for every layer, whatever rank the tensors have

_DEFAULTS = {
    field.name: field.default if field.default_factory is MISSING else field.default_factory()
    for field in fields(LoraConfig)
}


def misfit(file: Path, what: str) -> UserError:
    """The error for a file whose adapter does not fit the model, with the first line of
    ``what``."""
    return UserError(
        f"adapter {file} does not fit ({what.splitlines()[0]}): expected an adapter of this "
        "model; load the model it was trained on, or train it again"
    )


def parse_config(
    file: Path, described: Mapping[str, Any], inferred: Mapping[str, Any]
) -> LoraConfig:
    """Parse the configuration in a header.

    Args:
        file: whose header it is, for messages.
        described: fields of peft's LoraConfig, of any version, as JSON has them.
        inferred: the r and rank_pattern of the tensors, and other fields that follow from them, for
            a header that describes no weights.

    Raises:
        UserError: a field that is not supported here and not at its default, a value of the wrong
            type, or fields that peft refuses.
    """
    for name, value in described.items():
        if name in (*WRITTEN, *CHOOSING, *HARMLESS) or _off(name, value):
            continue
        if name == "init_lora_weights":
            raise UserError(
                f"adapter {file} was trained with {name} {value!r:.60}, so it belongs to changed "
                "base weights: expected a plain LoRA or DoRA; let peft convert it (save_pretrained "
                "with path_initial_model_for_weight_conversion)"
            )
        raise UserError(
            f"adapter {file} was trained with {name} {value!r:.60}, which is not supported: "
            "expected a plain LoRA or DoRA; merge it in the program that made it, or train it "
            "without"
        )
    given = {name: described[name] for name in (*WRITTEN, *CHOOSING) if name in described}
    given = given or dict(inferred)
    if (wrong := _wrong(given, inferred)) is not None:
        raise misfit(file, wrong)
    try:
        return LoraConfig(**given)
    except (TypeError, ValueError) as error:
        raise misfit(file, f"peft refuses its settings: {error}") from error


def check_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError unless these are tensors of a LoRA or DoRA, all of them finite."""
    for key, value in tensors.items():
        if not key.endswith(SUFFIXES):
            raise misfit(file, f"{key} is no part of a LoRA or DoRA adapter")
        if not value.is_floating_point():
            raise misfit(file, f"{key} is of {value.dtype}, not of floating-point numbers")
    check_finite(f"adapter {file}", tensors)


def check_finite(name: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError for a value that is not finite in float32, in which the tensors will be held.
    ``name`` says in the message what holds the tensors."""
    for key, value in tensors.items():
        if not value.float().isfinite().all():
            raise UserError(
                f"{name} holds a value in {key} that is not finite: expected numbers; it is "
                "damaged or its training diverged, train it again"
            )


def describe(config: LoraConfig) -> dict[str, Any]:
    """The fields for a file's header, as plain JSON; ``parse_config`` makes an equal configuration
    from them."""
    chosen = [name for name in CHOOSING if getattr(config, name) != _DEFAULTS[name]]
    return {name: _plain(getattr(config, name)) for name in (*WRITTEN, *chosen)}


def _off(name: str, value: object) -> bool:
    if name == "init_lora_weights":
        return isinstance(value, bool) or value in STARTS
    if name == "peft_type":
        return value == "LORA"
    return value is None or value is False or value in ("", [], {}) or value == _DEFAULTS.get(name)


def _wrong(given: Mapping[str, Any], inferred: Mapping[str, Any]) -> str | None:
    # peft checks few of these, and accepts a NaN or a word as a number.
    ranks, alphas = given.get("rank_pattern") or {}, given.get("alpha_pattern") or {}
    for name, table in (("rank_pattern", ranks), ("alpha_pattern", alphas)):
        if not isinstance(table, dict):
            return f"its {name} is {table!r:.60}, not a table"
    for rank in (given.get("r", 1), *ranks.values()):
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            return f"its rank is {rank!r:.60}, not 1 or more"
        # peft allocates it before the tensors are compared.
        if rank > max(_ROOM, inferred["r"], *inferred["rank_pattern"].values()):
            return f"its rank is {rank!r:.60}, far above that of its tensors"
    for alpha in (given.get("lora_alpha", 1), *alphas.values()):
        number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
        if not number or not abs(alpha) <= _LARGEST:  # true for NaN too
            return f"its alpha is {alpha!r:.60}, not a finite float32"
    for name in ("use_dora", "use_rslora"):
        if not isinstance(given.get(name, False), bool):
            return f"its {name} is {given[name]!r:.60}, not true or false"
    for name in ("target_modules", "exclude_modules", "layers_pattern"):
        names = given.get(name)
        if not (_are(names, str) or isinstance(names, str) or (names is None and name in CHOOSING)):
            return f"its {name} is {names!r:.60}, not a name or a list of names"
    layers = given.get("layers_to_transform")
    if not (layers is None or isinstance(layers, int) or _are(layers, int)):
        return f"its layers_to_transform is {layers!r:.60}, not a list of numbers"
    slow = next((pattern for pattern in _patterns(given) if _may_be_slow(pattern)), None)
    return None if slow is None else f"its pattern {slow!r:.60} may take for ever to match"


def _are(values: object, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _patterns(given: Mapping[str, Any]) -> list[str]:
    """The values that peft matches as regular expressions."""
    single = [given.get(name) for name in ("target_modules", "exclude_modules", "layers_pattern")]
    several = [given.get(name) or () for name in ("rank_pattern", "alpha_pattern")]
    layers = given.get("layers_pattern")
    more = layers if isinstance(layers, list) else []
    return [p for p in (*single, *more, *several[0], *several[1]) if isinstance(p, str)]


def _may_be_slow(pattern: str) -> bool:
    # A pattern from an untrusted file must not block the program. Repeated groups can take
    # exponential time, and each repetition adds a power of the name's length (except for digits, of
    # which a name has few in a row).
    repeats = re.findall(r"(?<!\\)[*+?{]", pattern.replace(r"\d+", ""))
    return re.search(r"\)[*+?{]", pattern) is not None or len(repeats) > 3 or len(pattern) > 1000


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, set) else value
