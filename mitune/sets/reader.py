"""Read a fine-tuning set: its settings, its table, and the (prompt, latent) pairs that tuning
takes.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from mitune.sets.parts import find_parts, read_part
from mitune.sets.schema import AUDIT, COLUMNS, SetRecord

_LIGHT = ["prompt_index", "score", "finite", "pruned", "rank", "selected"]


class FineTuningSet:
    """A set on disk, complete or not; made by ``FineTuningSet.open``.

    It shows the parts that were finished when it was opened; a writer may go on beside it. Only
    the scores are held in memory.
    """

    def __init__(self, path: Path, record: SetRecord, parts: dict[int, pa.Table]) -> None:
        """Private: ``parts`` are the checked parts' light columns, by number."""
        self.path = path
        self._record = record
        self._parts = parts

    @classmethod
    def open(cls, path: Path | str) -> "FineTuningSet":
        """Open the folder of a set and check run.json and every part in it, reading them whole
        once.

        Raises UserError naming the file and the mend: no set there, run.json damaged, a part
        truncated, damaged, copied from another set, or a Parquet file that is no part.
        """
        folder = Path(path)
        record = SetRecord.load(folder)
        parts = {
            part: read_part(folder, record, part).select(_LIGHT)
            for part in find_parts(folder, record)
        }
        return cls(folder, record, parts)

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved settings the set was built with, as they were given."""
        return self._record.settings

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, revision and device of the run that began the set."""
        return self._record.environment

    @property
    def notes(self) -> dict[str, Any]:
        """What run.json tells people, such as the name the model was loaded by."""
        return self._record.notes

    @property
    def prompts(self) -> list[str]:
        """All prompts of the set, finished or not, in order."""
        return list(self._record.prompts)

    @property
    def candidates(self) -> int:
        """Size of each prompt's pool; of the largest, where they differ."""
        return self._record.candidates

    @property
    def keep(self) -> int:
        """How many candidates of each pool are kept."""
        return self._record.keep

    @property
    def rule(self) -> str:
        """The selection rule, one of ``mitune.sets.RULES``."""
        return self._record.rule

    @property
    def complete(self) -> bool:
        """Whether the rows of every prompt are there; False for a set whose build was
        interrupted.
        """
        return len(self._parts) == self._record.parts

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows by (prompt_index, candidate), every column or the named ones.

        Raises UserError when a part was damaged or removed since the set was opened, KeyError for
        an unknown column.
        """
        schema = pa.schema([COLUMNS.field(name) for name in columns or COLUMNS.names])
        parts = [read_part(self.path, self._record, part, schema.names) for part in self._parts]
        return pa.concat_tables(
            [schema.empty_table(), *(part.select(schema.names) for part in parts)]
        )

    def terms(self, prompts: Iterable[int]) -> dict[int, Tensor]:
        """``[pool, N, 2]`` float32 of the pools of those ``prompts`` (indices) that are there: the
        terms of every candidate by its index, NaN where it did not take the step.

        Raises UserError as ``table`` does.
        """
        asked = pa.array(sorted(set(prompts)), pa.int32())
        table = self.table(["prompt_index", "terms", "cross_terms"])
        table = table.filter(pc.is_in(table["prompt_index"], asked))
        steps = max((len(row) for row in table["terms"]), default=0)
        filled = torch.full((table.num_rows, steps, 2), torch.nan)
        for column, name in enumerate(("terms", "cross_terms")):
            for row, values in enumerate(table[name]):
                # A copy: Arrow's memory is read-only.
                own = torch.from_numpy(values.values.to_numpy().copy())
                filled[row, : len(own), column] = own
        found = list(dict.fromkeys(table["prompt_index"].to_pylist()))
        pools = filled.split([self._record.pool(index) for index in found]) if found else ()
        return dict(zip(found, pools, strict=True))

    def audit(self) -> dict[str, Any] | None:
        """What pruning lost, of a complete set that was pruned; else None."""
        try:
            return dict(json.loads((self.path / AUDIT).read_bytes()))
        except FileNotFoundError:
            return None

    def selected(self) -> list[tuple[str, Tensor]]:
        """The kept (prompt, latent) pairs, by prompt and then rank, best first; latents float32
        on the CPU.

        Raises UserError as ``table`` does.
        """
        return [pair for _, pair in self._kept()]

    def best(self, count: int) -> list[tuple[str, Tensor]]:
        """The ``count`` of the kept pairs that have the highest scores, best first, whatever their
        prompts; all of them where there are fewer. Ties go to the earlier prompt.

        Raises UserError as ``table`` does.
        """
        rows = self._light()
        rows = rows.filter(rows["selected"]).sort_by(
            [("score", "descending"), ("prompt_index", "ascending"), ("rank", "ascending")]
        )
        asked = rows.slice(0, count).select(["prompt_index", "rank"])
        keys = list(zip(*asked.to_pydict().values(), strict=True))
        wanted = set(keys)
        found = {key: pair for key, pair in self._kept() if key in wanted}
        return [found[key] for key in keys]

    def _kept(self) -> Iterator[tuple[tuple[int, int], tuple[str, Tensor]]]:
        """(prompt_index, rank) of each kept candidate, in this order, and its pair."""
        for part in self._parts:  # one at a time: only the kept latents of one part are held twice
            table = read_part(self.path, self._record, part)
            kept = table.filter(table["selected"]).sort_by(
                [("prompt_index", "ascending"), ("rank", "ascending")]
            )
            keys = zip(kept["prompt_index"].to_pylist(), kept["rank"].to_pylist(), strict=True)
            rows = zip(kept["prompt"], kept["latent"], kept["latent_shape"], strict=True)
            for key, (prompt, latent, shape) in zip(keys, rows, strict=True):
                # A copy: Arrow's memory is read-only and a view would keep all of the part alive.
                values = torch.from_numpy(latent.values.to_numpy().copy())
                yield key, (prompt.as_py(), values.reshape(shape.as_py()))

    def _light(self) -> pa.Table:
        schema = pa.schema([COLUMNS.field(name) for name in _LIGHT])
        return pa.concat_tables([schema.empty_table(), *self._parts.values()])

    def summary(self) -> dict[str, Any]:
        """What a person wants to know of a set, as plain JSON; the score means are in nats, over
        finite ones.

        ``finished_prompts`` of ``prompts`` are there, with ``candidates`` rows in all, of which
        ``kept`` are selected, ``pruned`` stopped before their score was complete, and
        ``non_finite`` lost for a score or latent that is not finite; ``short_prompts`` have fewer
        than ``keep`` selected. ``score_mean_all`` and ``score_mean_kept`` are None when nothing
        counts.
        """
        rows = self._light()
        finite, kept = rows.filter(rows["finite"]), rows.filter(rows["selected"])
        scored = finite.filter(pc.invert(finite["pruned"]))
        kept_per_prompt = kept.group_by("prompt_index").aggregate([("rank", "count")])["rank_count"]
        finished = sum(len(self._record.prompts_of(part)) for part in self._parts)
        full = pc.sum(pc.equal(kept_per_prompt, self.keep)).as_py() or 0
        return {
            "path": str(self.path),
            "complete": self.complete,
            "prompts": len(self._record.prompts),
            "finished_prompts": finished,
            "candidates_per_prompt": self.candidates,
            "candidates": rows.num_rows,
            "rule": self.rule,
            "keep": self.keep,
            "kept": kept.num_rows,
            "short_prompts": finished - full,
            "pruned": rows.num_rows - rows.filter(pc.invert(rows["pruned"])).num_rows,
            "non_finite": rows.num_rows - finite.num_rows,
            "score_mean_all": pc.mean(scored["score"]).as_py(),
            "score_mean_kept": pc.mean(kept["score"]).as_py(),
        }
