"""The records in a training folder: run.json, and metrics.jsonl with one line per step."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mitune.adapters.adapter_file import digest
from mitune.adapters.run_folder import FORMAT, METRICS, RUN, VERSION, base_name
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.core.files import atomic_write, is_ours
from mitune.models.protocol import LatentModel
from mitune.training.material import Material, Part

# These change only speed, memory or checkpoints, so a resumed run may use other values.
_FREE = (
    "micro_batch",
    "cuda_graphs",
    "gradient_checkpointing",
    "checkpoint_every",
    "keep_checkpoints",
)
# These have no meaning without an adapter.
_ADAPTERS = ("rank", "alpha", "targets", "gradient", "backend")


def settings(
    model: LatentModel,
    material: Material,
    config: TuneConfig,
    start: Path | None,
    held_out: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that determines the adapter, as plain JSON.

    Args:
        model: recorded by its fingerprint, parts and precision.
        material: pairs are recorded by their SHA-256, and with their set's settings, so that a
            message can name a difference.
        config: recorded without the fields that change only speed and memory, or nothing.
        start: the adapter from which training starts, recorded by the SHA-256 of its file; or None.
        held_out: the settings of the measure on held-out prompts, if it decides when the run stops
            or which step's adapter is the result.

    Raises:
        UserError: if ``start`` does not exist.
    """
    unused = (*_FREE, *_ADAPTERS) if config.method == "full" else _FREE
    chosen = {name: value for name, value in asdict(config).items() if name not in unused}
    for name in ("mi_weight", "dpo_beta", "itm_factor"):
        if not chosen[name]:  # runs of earlier versions had none, and go on
            del chosen[name]
    found = {
        "config": chosen,
        "model": {
            "fingerprint": model.fingerprint,
            "parts": dict(model.parts),
            "precision": model.precision,
        },
        "set": _described(material.own),
        "adapter": start and digest(start),
    }
    parts = {"real": material.real, "prior": material.prior, "worse": material.worse}
    found |= {name: _described(part) for name, part in parts.items() if part is not None}
    if held_out is not None:
        found["held_out"] = dict(held_out)
    for name, content in (("weights", material.weights), ("wrong", material.wrong)):
        if content is not None:
            plainly = dict(content) if isinstance(content, Mapping) else list(content)
            text = json.dumps(plainly, sort_keys=True)
            found[name] = hashlib.sha256(text.encode()).hexdigest()
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _described(part: Part) -> dict[str, Any]:
    content = hashlib.sha256()
    for prompt, latent in part.pairs:
        content.update(json.dumps(prompt).encode())
        content.update(latent.detach().float().cpu().contiguous().numpy().tobytes())
    return {
        "pairs": len(part.pairs),
        "sha256": content.hexdigest(),
        "settings": dict(part.settings),
    }


def identity(wanted: Mapping[str, Any]) -> str:
    """SHA-256 of the settings. It identifies the run to which a checkpoint belongs."""
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()


def check(out: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether ``out`` holds a run with these settings; False if it is absent or empty. Writes
    nothing.

    Raises:
        UserError: if the folder holds a run with other settings (the message names each
            difference), or something else.
    """
    path = out / RUN
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        others = [p.name for p in out.iterdir() if not is_ours(p.name)] if out.is_dir() else []
        if others or (out.exists() and not out.is_dir()):
            raise UserError(
                f"{out} holds {others[0] if others else 'a file'} but no training run: expected a "
                "new or empty folder, or an earlier run's; choose another"
            ) from None
        return False
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}): expected a readable file"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{path} is damaged (not JSON): expected the file that `mitune tune` wrote; restore "
            "it, or train in another folder"
        ) from error
    if (
        not isinstance(content, dict)
        or content.get("format") != FORMAT
        or content.get("version") != VERSION
        or not isinstance(content.get("settings"), dict)
    ):
        raise UserError(
            f"{path} describes no training run of this version: expected a new folder, or one that "
            "`mitune tune` made; choose another"
        )
    there, here = _flat(content["settings"]), _flat(wanted)
    if "parts" not in content["settings"].get("model", {}):
        # A run of an earlier version, which recorded only the weights: parts that it does not
        # record count as equal. Its training set records its own model.
        here = {key: value for key, value in here.items() if not key.startswith("model.parts.")}
    differing = [
        f"{key} is {there.get(key, 'absent')!r} there and {here.get(key, 'absent')!r} here"
        for key in sorted(there.keys() | here.keys())
        if key not in there or key not in here or there[key] != here[key]
    ]
    if differing:
        raise UserError(
            f"{out} was trained with other settings ({'; '.join(differing)}): expected the same; "
            "give those, or choose another folder"
        )
    return True


def settings_in(out: Path) -> dict[str, Any]:
    """The settings of the run in ``out`` as they were written when it began. Its checkpoints carry
    the ``identity`` of these."""
    content: dict[str, Any] = json.loads((out / RUN).read_bytes())
    return dict(content["settings"])


def write(out: Path, wanted: Mapping[str, Any], environment: Mapping[str, Any], model: str) -> None:
    """Write run.json. ``model`` is the base model's name, for people: a run may be resumed with the
    same model loaded from another place. Raises UserError if the folder cannot be written."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": base_name(model),
        "settings": dict(wanted),
        "environment": dict(environment),
    }
    atomic_write(out / RUN, (json.dumps(content, indent=2) + "\n").encode())


def cut_metrics(out: Path, step: int) -> None:
    """Remove the lines of steps after ``step``.

    A killed run may have written such lines, and half of one, after its last checkpoint. These
    steps are repeated.
    """
    path = out / METRICS
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > step:
            break
        kept.append(line)
    atomic_write(path, "".join(kept).encode())


def append_metrics(out: Path, line: Mapping[str, float | None]) -> None:
    """Append one line. Raises UserError if the folder cannot be written or the disk is full."""
    try:
        with (out / METRICS).open("a") as file:
            file.write(json.dumps(dict(line)) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write {out / METRICS} ({error.strerror}): expected a writable folder with "
            "free space; mend that and run the same command again"
        ) from error


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if isinstance(entry, dict) and entry:
            flat |= _flat(entry, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = entry
    return flat
