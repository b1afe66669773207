"""What this machine can do: devices, versions, and which implementations run or why they do not."""

import importlib.util
from typing import Any

import mitune_kernels
import torch
from mitune_kernels import checked
from mitune_kernels.dispatch import choose

from mitune.core import environment, host
from mitune.core.provenance import device_name, versions
from mitune.runtime.compile import inductor, onednn

_OPTIONAL = {
    "xformers": "pip install xformers, built for the same CUDA as torch",
    "onnxscript": "pip install 'mitune[onnx]'",
    "tensorrt": "pip install 'mitune[tensorrt]' on a machine with an NVIDIA GPU",
}


def _gpus() -> list[str]:
    return [device_name(torch.device("cuda", i)) for i in range(torch.cuda.device_count())]


def _optional(module: str, mend: str) -> str | None:
    """None if the module is installed, else why not. Nothing is imported: a broken build must not
    break the doctor."""
    return None if importlib.util.find_spec(module) else f"not installed: {mend}"


def _compiled() -> dict[str, str | None]:
    """What the backend inductor gets from parts of torch that are private to it, and that another
    version may lack; without them it is slower."""
    lacks = f"torch {torch.__version__} has another inductor than expected: workers take turns"
    return {
        "workers": lacks if inductor.compiler() is None else None,
        "products": onednn.why_not(),
    }


def _auto(device: torch.device) -> str:
    """What the implementation ``auto`` is on a GPU."""
    chosen, found = choose("auto", device), checked.found(device)
    if found is None:
        return (
            f"{device}: auto is {chosen}: no kernel was checked on this GPU with this driver and "
            f"torch; 'mitune bench step --device {device}' checks them, and auto then takes the "
            "fastest that is right"
        )
    passed = ", ".join(found["seconds"])
    refused = "".join(f"; {name} refused: {why}" for name, why in found["refused"].items())
    return f"{device}: auto is {chosen}, the fastest here of {passed}{refused}"


def examine() -> dict[str, Any]:
    """Plain JSON: ``versions``, ``devices``, ``step`` (each implementation: None if usable, else
    the reason), ``auto`` (what it takes on each GPU, and why), ``compiled``, ``host`` and
    ``optional`` (as ``step``), ``settings`` (what came too late, ``mitune.core.environment``)."""
    return {
        "versions": versions(),
        "devices": [device_name(torch.device("cpu")), *_gpus()],
        "step": mitune_kernels.implementations(),
        "auto": [_auto(torch.device("cuda", i)) for i in range(torch.cuda.device_count())],
        "compiled": _compiled(),
        "host": {"extension": host.why_not()},
        "settings": environment.missing(),
        "optional": {name: _optional(name, mend) for name, mend in _OPTIONAL.items()},
    }


def tell(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"{name:<14} {version or 'not installed'}" for name, version in report["versions"].items()
    ]
    lines += [f"device         {device}" for device in report["devices"]]
    for group in ("step", "compiled", "host", "optional"):
        for name, reason in report[group].items():
            lines.append(f"{group}: {name:<10} {'available' if reason is None else reason}")
    lines += [f"step: {line}" for line in report["auto"]]
    lines += [f"settings: {line}" for line in report["settings"]]
    if not torch.cuda.is_available():
        lines.append("no CUDA GPU: everything runs on the CPU")
    return "\n".join(lines)
