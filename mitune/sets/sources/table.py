"""Data sets that the package ``datasets`` reads."""

from collections.abc import Iterator
from pathlib import Path

from mitune.core.errors import UserError
from mitune.sets.sources.found import KEYS, Found, read


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` of ``datasets`` wrote the folder."""
    return any((folder / name).exists() for name in ("state.json", "dataset_dict.json"))


def tabled(source: str) -> Iterator[Found]:
    """Yield the rows of a data set: a name on the hub, a folder written by ``save_to_disk``, or a
    folder of Parquet files.

    Raises:
        UserError: if the package is absent or older than version 4, or the data set cannot be
            loaded or does not have the expected columns.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{source} is no folder of pictures and no .tar file: expected one, or the name of a "
            "data set and the package that reads it (pip install 'mitune[datasets]')"
        ) from None
    # Up to version 3, datasets runs scripts that come with a data set.
    if int(datasets.__version__.split(".")[0]) < 4:
        raise UserError(
            f"the package datasets is {datasets.__version__}: expected 4 or later, which runs no "
            "data set's scripts; pip install 'mitune[datasets]'"
        )
    try:
        if is_saved(Path(source)):
            table = datasets.load_from_disk(source)
            table = table["train"] if isinstance(table, dict) else table
        else:
            table = datasets.load_dataset(source, split="train")
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"data set {source} cannot be loaded ({reason}): expected a folder, .tar shards, or a "
            "data set with a split 'train' that this machine can reach"
        ) from error
    key = next((key for key in KEYS if key in table.column_names), None)
    if key is None or not isinstance(table.features.get("image"), datasets.Image):
        raise UserError(
            f"data set {source} has the columns {', '.join(table.column_names)}: expected 'image' "
            f"with pictures, and {' or '.join(map(repr, KEYS))}"
        )
    rows = table.select_columns(["image", key]).cast_column("image", datasets.Image(decode=False))
    for number, row in enumerate(rows):
        stored = row["image"] or {"path": "", "bytes": b""}  # decoding will report: not a picture
        content = read(Path(stored["path"])) if stored["bytes"] is None else stored["bytes"]
        yield f"{source}, row {number}", row[key], content
