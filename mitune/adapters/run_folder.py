"""The files of a training run, which lie beside the adapter that it made."""

from pathlib import Path

FORMAT = "mitune-tuning"
VERSION = 1
RUN, METRICS = "run.json", "metrics.jsonl"


def base_name(name: str) -> str:
    """A model's name as records keep it: a folder by its whole path, which no name on the hub can
    be mistaken for."""
    return str(Path(name).resolve()) if "/" in name and Path(name).is_dir() else name
