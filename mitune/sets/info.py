"""What is in a set, for people."""

from pathlib import Path
from typing import Any

from mitune.sets.parts import find_parts, part_path
from mitune.sets.reader import FineTuningSet
from mitune.sets.schema import SetRecord


def info(folder: Path | str) -> dict[str, Any]:
    """The set's summary, with what made it, its size on disk and the parts that are missing, as
    plain JSON.

    Raises:
        UserError: as ``FineTuningSet.open``.
    """
    path = Path(folder)
    found, record = FineTuningSet.open(path), SetRecord.load(path)
    parts = find_parts(path, record)
    made = found.environment
    return {
        **found.summary(),
        "model": found.notes.get("model", "not recorded"),
        "mitune": made.get("versions", {}).get("mitune", "of a version that was not recorded"),
        "device": made.get("device", "a device that was not recorded"),
        "parts": record.parts,
        "parts_there": len(parts),
        "missing": sorted(set(range(record.parts)) - set(parts)),
        "bytes": sum(part_path(path, part).stat().st_size for part in parts),
        "settings": found.settings,
    }
