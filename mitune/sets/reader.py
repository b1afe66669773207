"""Read a fine-tuning set: its settings, its table, and the (prompt, latent) pairs for training."""

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
    """A set on disk, complete or not; create it with ``FineTuningSet.open``.

    It shows the parts that were finished when it was opened; a writer may add parts at the same
    time. Only the scores and ranks stay in memory.
    """

    def __init__(self, path: Path, record: SetRecord, parts: dict[int, pa.Table]) -> None:
        """Private. ``parts`` holds the small columns (``_LIGHT``) of each checked part, by
        number."""
        self.path = path
        self._record = record
        self._parts = parts

    @classmethod
    def open(cls, path: Path | str) -> "FineTuningSet":
        """Open the folder of a set and check run.json and every part. This reads all files
        completely, once.

        Raises:
            UserError: if the folder holds no set, run.json is damaged, a part is truncated, damaged
                or copied from another set, or a Parquet file there is not a part. The message names
                the file and the fix.
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
        """The resolved settings with which the set was built, as they were given."""
        return self._record.settings

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, revision and device of the run that started the set."""
        return self._record.environment

    @property
    def notes(self) -> dict[str, Any]:
        """Notes for people in run.json, such as the name from which the model was loaded."""
        return self._record.notes

    @property
    def prompts(self) -> list[str]:
        """All prompts of the set, finished or not, in order."""
        return list(self._record.prompts)

    @property
    def candidates(self) -> int:
        """Size of each prompt's pool; of the largest pool if the sizes differ."""
        return self._record.candidates

    @property
    def keep(self) -> int:
        """Number of candidates to keep from each pool."""
        return self._record.keep

    @property
    def rule(self) -> str:
        """The selection rule, one of ``mitune.sets.RULES``."""
        return self._record.rule

    @property
    def complete(self) -> bool:
        """Whether the set holds the rows of every prompt; False if its build was interrupted."""
        return len(self._parts) == self._record.parts

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows sorted by (prompt_index, candidate), with the named columns or all of them.

        Raises:
            UserError: if a part was damaged or removed after the set was opened.
            KeyError: for an unknown column.
        """
        schema = pa.schema([COLUMNS.field(name) for name in columns or COLUMNS.names])
        return pa.concat_tables([schema.empty_table(), *self.parts(schema.names)])

    def parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The rows of ``table``, a part of the set at a time, so that latents are never all in
        memory.

        Raises:
            UserError: as ``table``.
        """
        for part in self._parts:
            yield read_part(self.path, self._record, part, columns).select(columns)

    def terms(self, prompts: Iterable[int]) -> dict[int, Tensor]:
        """The score terms of the pools of ``prompts`` (indices), by prompt index. Prompts without
        finished rows are left out.

        Each value is ``[pool, N, 2]`` float32, with one row per candidate in the order of its
        index; a step that the candidate did not take is NaN.

        Raises:
            UserError: as ``table``.
        """
        asked = pa.array(sorted(set(prompts)), pa.int32())
        table = self.table(["prompt_index", "terms", "cross_terms"])
        table = table.filter(pc.is_in(table["prompt_index"], asked))
        steps = max((len(row) for row in table["terms"]), default=0)
        filled = torch.full((table.num_rows, steps, 2), torch.nan)
        for column, name in enumerate(("terms", "cross_terms")):
            for row, values in enumerate(table[name]):
                # Copy: Arrow's memory is read-only.
                own = torch.from_numpy(values.values.to_numpy().copy())
                filled[row, : len(own), column] = own
        found = list(dict.fromkeys(table["prompt_index"].to_pylist()))
        pools = filled.split([self._record.pool(index) for index in found]) if found else ()
        return dict(zip(found, pools, strict=True))

    def audit(self) -> dict[str, Any] | None:
        """The audit of what pruning lost, or None if the set was not pruned or is incomplete."""
        try:
            return dict(json.loads((self.path / AUDIT).read_bytes()))
        except FileNotFoundError:
            return None

    def selected(self) -> list[tuple[str, Tensor]]:
        """The kept (prompt, latent) pairs, sorted by prompt and then by rank, best first. Latents
        are float32 on the CPU.

        Raises:
            UserError: as ``table``.
        """
        return [pair for _, pair in self._kept()]

    def best(self, count: int) -> list[tuple[str, Tensor]]:
        """The ``count`` kept pairs with the highest scores over all prompts, best first; all kept
        pairs if there are fewer. Ties go to the earlier prompt.

        Raises:
            UserError: as ``table``.
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
        """(prompt_index, rank) and the (prompt, latent) pair of each kept candidate, sorted by
        (prompt_index, rank)."""
        for part in self._parts:  # one at a time, so that only its kept latents are held twice
            table = read_part(self.path, self._record, part)
            kept = table.filter(table["selected"]).sort_by(
                [("prompt_index", "ascending"), ("rank", "ascending")]
            )
            keys = zip(kept["prompt_index"].to_pylist(), kept["rank"].to_pylist(), strict=True)
            rows = zip(kept["prompt"], kept["latent"], kept["latent_shape"], strict=True)
            for key, (prompt, latent, shape) in zip(keys, rows, strict=True):
                # Copy: Arrow's memory is read-only, and a view would keep the whole part in memory.
                values = torch.from_numpy(latent.values.to_numpy().copy())
                yield key, (prompt.as_py(), values.reshape(shape.as_py()))

    def _light(self) -> pa.Table:
        schema = pa.schema([COLUMNS.field(name) for name in _LIGHT])
        return pa.concat_tables([schema.empty_table(), *self._parts.values()])

    def summary(self) -> dict[str, Any]:
        """A summary of the set for people, as plain JSON.

        ``finished_prompts`` counts those of ``prompts`` that have their rows in the set, and
        ``candidates`` counts all rows. Of these, ``kept`` are selected, ``pruned`` stopped before
        their score was complete, and ``non_finite`` have a score or latent that is not finite.
        ``short_prompts`` counts finished prompts with fewer than ``keep`` selected rows.
        ``score_mean_all`` is the mean score over the finite rows that were not pruned,
        ``score_mean_kept`` over the kept rows; None if there is no such row. ``unit`` is theirs:
        nats, or the name of the metric that ranked the pools instead.
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
            "unit": str(self._record.settings.get("rank_by", "nats")).split(" ")[0],
            "keep": self.keep,
            "kept": kept.num_rows,
            "short_prompts": finished - full,
            "pruned": rows.num_rows - rows.filter(pc.invert(rows["pruned"])).num_rows,
            "non_finite": rows.num_rows - finite.num_rows,
            "score_mean_all": pc.mean(scored["score"]).as_py(),
            "score_mean_kept": pc.mean(kept["score"]).as_py(),
        }
