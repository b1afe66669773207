"""Tables that are made once: Parquet files that know what they are of."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.core.files import atomic_write, make_folder
from mitune.core.provenance import as_json
from mitune.models.protocol import LatentModel

_IDENTITY = b"mitune.study"
"""Key of a file's metadata: what its content depends on."""


def stored(path: Path, identity: Mapping[str, Any], make: Callable[[], pa.Table]) -> pa.Table:
    """The table in the file ``path``; if there is none, it is made and written.

    Args:
        path: of the file.
        identity: everything that the table depends on, as plain JSON.
        make: makes the table.

    Raises:
        UserError: the file is of something else, or cannot be written.
    """
    wanted = as_json(dict(identity)).encode()
    if path.exists():
        table = pq.read_table(path)
        if (table.schema.metadata or {}).get(_IDENTITY) != wanted:
            raise UserError(
                f"{path} is of another model or other settings: expected those of this command; "
                "give another --out"
            )
        return table
    table = make().replace_schema_metadata({_IDENTITY: wanted})
    write(path, table)
    return table


def precision_of(model: LatentModel) -> dict[str, str]:
    """What an identity has of a model that does not compute in float32."""
    return {} if model.precision == "float32" else {"precision": model.precision}


def write(path: Path, table: pa.Table) -> None:
    """Write a table as Parquet, all of it or nothing."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    make_folder(path.parent)
    atomic_write(path, sink.getvalue().to_pybytes())


def bytes_of(tensors: Tensor) -> list[bytes]:
    """A column of tensors: ``[N, ...]`` as N times the bytes of little-endian float32."""
    return [row.tobytes() for row in tensors.detach().cpu().numpy().astype("<f4")]


def from_bytes(column: Sequence[bytes]) -> Tensor:
    """The numbers of ``bytes_of``, flat, float32."""
    return torch.from_numpy(np.frombuffer(b"".join(column), dtype="<f4").astype(np.float32))
