"""Append candidates to a fine-tuning set, so that a kill at any moment costs the unfinished part
and nothing else.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mitune.core.errors import UserError
from mitune.core.files import atomic_write, file_lock, is_ours, make_folder, remove_leftovers
from mitune.engine.candidate import Candidate
from mitune.sets.card import card
from mitune.sets.parts import encode, find_parts, part_path, read_part
from mitune.sets.schema import CARD, PARTS, RUN, SetRecord


class SetWriter:
    """The one writer of a set's folder: opens a new set or goes on with an interrupted one.

    Candidates may come in any order. Those of one part (a block of ``prompts_per_part`` prompts)
    wait in memory until the block is whole; then the part appears under its name at once,
    complete. Parts never change afterwards.

    Use as a context manager, or call ``close``; either way what is unfinished is dropped, to be
    generated again.

    Attributes:
        path: the set's folder.
        unrecorded: settings that the set, begun by an earlier version, does not tell, so that
            nobody can say whether they are the same.
    """

    def __init__(
        self,
        out: Path | str,
        settings: Mapping[str, Any],
        prompts: Sequence[str],
        candidates: int,
        keep: int,
        rule: str = "mi",
        *,
        prompts_per_part: int = 8,
        pools: Sequence[int] | None = None,
        environment: Mapping[str, Any] | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the folder ``out``, creating it and its parents.

        Args:
            out: the set's folder: absent, empty, or an earlier run's with the same settings and
                prompts.
            settings: resolved settings as plain JSON; a resume must give equal ones.
            prompts: distinct prompts; a resume must give the same ones in the same order.
            candidates: size of each prompt's pool; with ``pools``, of the largest.
            keep: how many of each pool are kept, 1 <= keep <= candidates.
            rule: "mi", "random" or "worst".
            prompts_per_part: prompts in a part.
            pools: size of each prompt's pool, in their order, where they differ.
            environment: versions, revision, device as plain JSON: recorded by the first run,
                never compared.
            notes: for people, as plain JSON: likewise.

        Raises UserError, before anything is written, for a bad keep, rule or prompt list, for a
        folder that holds something else, and for a set built with other settings (naming each
        difference); also when another run is writing there, when the folder cannot be written,
        and when a part is truncated, damaged or foreign.
        """
        self.path = Path(out)
        asked = SetRecord(
            settings=dict(settings),
            prompts=tuple(prompts),
            candidates=candidates,
            keep=keep,
            rule=rule,
            prompts_per_part=prompts_per_part,
            pools=None if pools is None else tuple(pools),
            environment=dict(environment or {}),
            notes=dict(notes or {}),
        )
        _agree(self.path, asked)
        make_folder(self.path)
        self._pending: dict[int, dict[tuple[int, int], Candidate]] = {}
        with ExitStack() as stack:
            stack.enter_context(file_lock(self.path))
            self._record = self._open(asked)
            self._finished = set(find_parts(self.path, self._record))
            for part in sorted(self._finished):
                read_part(self.path, self._record, part)
            self._stack = stack.pop_all()
        self._closed = False

    def _open(self, asked: SetRecord) -> SetRecord:
        # Again, under the lock: another run may have begun a set meanwhile.
        record = _agree(self.path, asked)
        for name in (RUN, CARD):
            remove_leftovers(self.path, name)
        self.unrecorded = record.unrecorded(asked)
        if record is asked:
            atomic_write(self.path / RUN, record.dumps())
        if not (self.path / CARD).exists():
            atomic_write(self.path / CARD, card(record))
        make_folder(self.path / PARTS)
        remove_leftovers(self.path / PARTS, "part-*.parquet")
        return record

    @property
    def complete(self) -> bool:
        """Whether every part is finished."""
        return len(self._finished) == self._record.parts

    def finished_prompts(self) -> int:
        """The n such that prompts 0..n-1 all stand in finished parts: a resumed run may start at
        prompt n.
        """
        pending = self.pending_prompts()
        return pending[0] if pending else len(self._record.prompts)

    def pending_prompts(self) -> list[int]:
        """Indices of the prompts that stand in no finished part, ascending: exactly what is left
        to generate.
        """
        parts = (part for part in range(self._record.parts) if part not in self._finished)
        return [index for part in parts for index in self._record.prompts_of(part)]

    def add(self, candidate: Candidate) -> None:
        """Take one candidate; write its part when that was the last one missing.

        A candidate is fixed by its key (prompt, index), so one that came before, or whose part is
        finished, is ignored.

        Raises ValueError when the candidate is not one of this set's, or after ``close``;
        UserError when the part cannot be written (the finished parts stay readable).
        """
        record = self._record
        if self._closed:
            raise ValueError("got a candidate after close; expected an open writer")
        prompt_index = candidate.prompt_index
        if prompt_index >= len(record.prompts) or candidate.index >= record.pool(prompt_index):
            raise ValueError(
                f"got candidate {candidate.index} of prompt {prompt_index}; "
                f"expected less than {record.candidates} and {len(record.prompts)}"
            )
        if candidate.prompt != record.prompts[candidate.prompt_index]:
            raise ValueError(
                f"got prompt {candidate.prompt!r} at {candidate.prompt_index}; "
                f"expected {record.prompts[candidate.prompt_index]!r}"
            )
        part = candidate.prompt_index // record.prompts_per_part
        if part in self._finished:
            return
        block = self._pending.setdefault(part, {})
        block.setdefault((candidate.prompt_index, candidate.index), candidate)
        if len(block) == record.rows_of(part):
            atomic_write(part_path(self.path, part), encode(record, part, block))
            self._finished.add(part)
            del self._pending[part]

    def close(self) -> None:
        """Drop what is unfinished and let go of the folder; may be called twice."""
        self._closed = True
        self._pending.clear()
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _agree(path: Path, asked: SetRecord) -> SetRecord:
    """The record of the set in ``path``, or ``asked`` when there is none yet; writes nothing.

    Raises UserError for a path that is neither absent, nor empty, nor a set that ``asked`` may go
    on with.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; expected a folder for the set: choose another path")
    if (path / RUN).exists():
        record = SetRecord.load(path)
        if difference := record.difference(asked):
            # Nothing rests yet on how a set without parts was going to be rounded: whoever found
            # that so many slots do not fit may try fewer.
            if record.rounds_otherwise(asked) and not find_parts(path, record):
                return asked
            raise UserError(
                f"{path} holds a set built otherwise: {difference}; expected the same: "
                f"choose another folder, or give what its {RUN} says"
            )
        return record
    others = sorted(p.name for p in path.iterdir() if not is_ours(p.name)) if path.exists() else []
    if others:
        raise UserError(
            f"{path} holds {others[0]!r} but no fine-tuning set; expected a new or empty folder: "
            "choose another path"
        )
    return asked
