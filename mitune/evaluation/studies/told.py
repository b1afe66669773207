"""What a study leaves: its tables as files, and the same as plain JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from mitune.core.files import atomic_write, make_folder
from mitune.core.provenance import as_json, environment
from mitune.evaluation.studies.plan import Plan
from mitune.evaluation.studies.stored import write
from mitune.load import pick_device


def tell(
    plan: Plan, name: str, table: str, rows: Sequence[Mapping[str, Any]], seconds: float
) -> dict[str, Any]:
    """Write ``table.md`` (Markdown), ``table.parquet`` (its rows) and ``study.json`` to the study's
    folder; returns the content of the latter.

    Args:
        plan: of the study.
        name: of the study.
        table: Markdown.
        rows: one level deep.
        seconds: of this process; less if it went on with what an earlier one had made.
    """
    make_folder(plan.out)
    # Not where things lie on this machine: results are published.
    plain = {key: v for key, v in asdict(plan).items() if key not in ("out", "work")}
    plain["folder"] = None if plan.folder is None else plan.folder.name
    result: dict[str, Any] = {
        "study": name,
        "plan": plain,
        "rows": list(rows),
        "seconds": seconds,
        "environment": environment(pick_device(None)),
    }
    atomic_write(plan.out / "table.md", table.encode())
    write(plan.out / "table.parquet", pa.Table.from_pylist(list(rows)))
    atomic_write(plan.out / "study.json", as_json(result, indent=1).encode())
    return result
