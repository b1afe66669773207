"""Where a result comes from: the command that repeats it, versions, device, settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mitune.arguments.file import NAME
from mitune.report.page import render


def source(folder: Path, environment: Mapping[str, Any], settings: Mapping[str, Any]) -> Markup:
    """The command in ``folder`` if one is there, the environment, and all settings."""
    path = folder / NAME
    command = path.read_text(encoding="utf-8") if path.is_file() else ""
    without = {name: value for name, value in environment.items() if name != "versions"}
    verb = next(
        (line.partition(":")[2].strip() for line in command.splitlines() if line[:5] == "verb:"), ""
    )
    return render(
        "source.html",
        command=command,
        verb=verb,
        values=flat({**environment.get("versions", {}), **without}),
        settings=flat(settings),
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name; lists as text."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, (int, float, str)) else str(value)
    return found
