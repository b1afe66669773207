"""Append candidates to a fine-tuning set. If the process is killed at any moment, only the
unfinished parts are lost.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mitune.config.shard import WHOLE, Shard
from mitune.core.errors import UserError
from mitune.core.files import (
    atomic_write,
    file_lock,
    make_folder,
    put,
    remove_leftovers,
)
from mitune.engine.candidate import Candidate
from mitune.sets.data_card import card
from mitune.sets.opening import agree, check_alone
from mitune.sets.parts import encode, find_parts, part_path, read_part
from mitune.sets.schema import CARD, PARTS, RUN, SetRecord

_OPENING = 60.0
"""Seconds to wait for others that open the set; each is done within a fraction of one."""


class SetWriter:
    """The only writer of a set's folder: starts a new set or resumes an interrupted one.

    Candidates may arrive in any order. The candidates of one part (a block of ``prompts_per_part``
    prompts) wait in memory until the block is complete; then the part is written atomically. Parts
    never change afterwards.

    Use it as a context manager, or call ``close``. Both drop unfinished parts, which have to be
    generated again.

    Attributes:
        path: the set's folder.
        unrecorded: settings that the set does not record because an earlier version started it, so
            that they cannot be compared.
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
        all_latents: bool = False,
        environment: Mapping[str, Any] | None = None,
        notes: Mapping[str, Any] | None = None,
        shard: Shard = WHOLE,
        locked: bool = True,
    ) -> None:
        """Open the folder ``out``, creating it and its parents.

        Args:
            out: the set's folder: absent, empty, or left by an earlier run with the same settings
                and prompts.
            settings: resolved settings as plain JSON; to resume, pass equal ones.
            prompts: distinct prompts; to resume, pass the same ones in the same order.
            candidates: size of each prompt's pool; of the largest pool if ``pools`` is given.
            keep: number of candidates to keep from each pool, 1 <= keep <= candidates.
            rule: "mi", "random" or "worst".
            prompts_per_part: prompts in a part.
            pools: size of each prompt's pool, in the order of ``prompts``, if the sizes differ.
            all_latents: store the latents of all candidates, not of the kept alone.
            environment: versions, revision, device as plain JSON. The first run records them; they
                are never compared.
            notes: for people, as plain JSON; recorded by the first run and never compared.
            shard: the share of the parts, a block of neighbours, that this writer writes. Writers
                of other shares of the same number may be writing the same folder, on other machines
                too.
            locked: keep other writers of the share away. A fleet's workers take no locks, which not
                every file system of several machines has: of two that make the same part the first
                to end writes it. Finished parts
                are then not read again, as each of many workers would read all of them.

        Raises:
            UserError: before anything is written, for a bad keep, rule or prompt list, for a folder
                that holds something else, and for a set built with other settings (the message
                names each difference). Also if another run is writing there, the folder cannot be
                written, or a part is truncated, damaged or from another set; or if there are fewer
                parts than shares.
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
            all_latents=all_latents,
            environment=dict(environment or {}),
            notes=dict(notes or {}),
        )
        agree(self.path, asked, locked)
        self._own = shard.block(asked.parts)
        if shard.of > asked.parts:
            raise UserError(
                f"shard is {shard.number}/{shard.of}, but the set has {asked.parts} parts (of "
                f"{prompts_per_part} prompts each): expected at most as many shares"
            )
        make_folder(self.path)
        self._pending: dict[int, dict[tuple[int, int], Candidate]] = {}
        with ExitStack() as stack:
            with ExitStack() as opening:
                if locked:
                    self._lock(shard, stack if shard.of == 1 else opening, stack)
                self._record = self._open(asked, locked)
            self._finished = set(find_parts(self.path, self._record)).intersection(self._own)
            for part in sorted(self._finished) if locked else ():
                read_part(self.path, self._record, part)
            self._stack = stack.pop_all()
        self._closed = False

    def _lock(self, shard: Shard, folder: ExitStack, share: ExitStack) -> None:
        """Keep other writers of the same parts away: the folder's own lock while ``folder`` is
        open, of a share only while the set is opened; the share's own lock while ``share`` is."""
        folder.enter_context(file_lock(self.path, wait=0 if shard.of == 1 else _OPENING))
        check_alone(self.path, shard)
        if shard.of > 1:
            share.enter_context(file_lock(self.path, shard.name))

    def _open(self, asked: SetRecord, locked: bool) -> SetRecord:
        # Check again under the lock: another run may have started a set in the meantime.
        record = agree(self.path, asked, locked)
        if locked:
            for name in (RUN, CARD):
                remove_leftovers(self.path, name)
        if record is asked and locked:
            atomic_write(self.path / RUN, record.dumps())
        elif record is asked and not put(self.path / RUN, record.dumps()):
            record = agree(self.path, asked, locked)
        self.unrecorded = record.unrecorded(asked)
        if not (self.path / CARD).exists():
            put(self.path / CARD, card(record))
        make_folder(self.path / PARTS)
        if locked:
            for part in self._own:
                remove_leftovers(self.path / PARTS, part_path(self.path, part).name)
        return record

    @property
    def complete(self) -> bool:
        """Whether every part of the whole set is finished, by this writer or others."""
        return len(find_parts(self.path, self._record)) == self._record.parts

    @property
    def parts(self) -> int:
        """Number of parts of the whole set."""
        return self._record.parts

    @property
    def prompts(self) -> int:
        """Number of prompts of the writer's share."""
        return sum(len(self._record.prompts_of(part)) for part in self._own)

    def finished_prompts(self) -> int:
        """The largest n for which those of prompts 0..n-1 that are the writer's are all in finished
        parts: a resumed run may start at prompt n.
        """
        pending = self.pending_prompts()
        return pending[0] if pending else len(self._record.prompts)

    def pending_prompts(self) -> list[int]:
        """Indices of the prompts of the writer's share that are in no finished part, ascending:
        exactly those that remain to be generated.
        """
        return [index for part in self.pending_parts() for index in self._record.prompts_of(part)]

    def pending_parts(self) -> list[int]:
        """Numbers of the parts of the writer's share that are not finished, ascending."""
        return [part for part in self._own if part not in self._finished]

    def add(self, candidate: Candidate) -> None:
        """Add one candidate; write its part if it was the last one missing.

        The key (prompt, index) determines a candidate, so a repeated candidate, or one whose part
        is finished or another writer's, is ignored.

        Raises:
            ValueError: if the candidate does not belong to this set, or after ``close``.
            UserError: if the part cannot be written (the finished parts stay readable).
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
        if part in self._finished or part not in self._own:
            return
        block = self._pending.setdefault(part, {})
        block.setdefault((candidate.prompt_index, candidate.index), candidate)
        if len(block) == record.rows_of(part):
            put(part_path(self.path, part), encode(record, part, block))
            self._finished.add(part)
            del self._pending[part]

    def adopt(self, part: int, content: bytes) -> bool:
        """Take the file of a part that another writer of the same set made, unless the set has the
        part. Returns whether it was taken.

        Raises:
            UserError: it cannot be written, or is truncated, damaged or of another set; it is then
                not kept.
        """
        if part in self._finished or part not in self._own:
            return False
        path = part_path(self.path, part)
        put(path, content)
        try:
            read_part(self.path, self._record, part)
        except UserError:
            path.unlink(missing_ok=True)
            raise
        self._finished.add(part)
        return True

    def close(self) -> None:
        """Drop unfinished parts and release the lock on the folder; may be called twice."""
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
