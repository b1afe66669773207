"""The files of a training run, which lie next to the adapter that it made."""

from pathlib import Path

FORMAT = "mitune-tuning"
VERSION = 1
RUN, METRICS = "run.json", "metrics.jsonl"


def base_name(name: str) -> str:
    """A model's name as records keep it: a folder or a file becomes its absolute path, which cannot
    be mistaken for a name on the hub."""
    return str(Path(name).resolve()) if "/" in name and Path(name).exists() else name
