"""Provenance of a result (versions, revision and device), and results as JSON text."""

import json
import math
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PACKAGES = (
    "mitune",
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "safetensors",
    "pyarrow",
    "triton",
)


def versions() -> dict[str, str | None]:
    """Installed version of each package that can change a result; None where it is absent."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def revision() -> str | None:
    """Git revision of a source checkout of mitune, with "+changes" if it differs; None for an
    installed package, or if git cannot tell."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+changes" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        # No git on the machine, or a checkout that git refuses to read.
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def device_name(device: "torch.device") -> str:
    """Name of the device for people: the GPU's name, or the CPU's architecture and the number of
    torch's threads."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def environment(device: "torch.device") -> dict[str, Any]:
    """What is recorded with every result; it never decides whether a run may be resumed."""
    return {"versions": versions(), "revision": revision(), "device": device_name(device)}


def as_json(value: Any, indent: int | None = None) -> str:
    """``value`` as JSON text. JSON has no NaN and no infinity: they become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
