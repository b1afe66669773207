"""The engine: a fixed number of slots that a stream of requests keeps full.

Every slot holds one candidate at its own timestep under its own prompt; a slot that becomes free is
refilled, so the shape of the batch never changes. There is no scheduler object. The host only
counts steps: it knows without asking the device when a candidate is done or has reached a rung of
its pool's policy. At a rung a candidate leaves its slot and waits until its whole pool has arrived.
Survivors get a slot again before any new candidate.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mitune.diffusion.noise import candidate_keys
from mitune.diffusion.schedule import Schedule
from mitune.engine.candidate import Candidate
from mitune.engine.policies import Policy, Unpruned
from mitune.engine.prompt_encoder import PromptEncoder
from mitune.engine.request import EngineStats, Request
from mitune.engine.slots import Slots, State
from mitune.models.protocol import Conditioning, Denoiser


@dataclass
class _Pool:
    """Candidates of one prompt that are on their way to the same rung."""

    policy: Policy
    key: dict[int, Tensor]
    cond: dict[str, Tensor]
    left: int
    arrived: list["_Entry"] = field(default_factory=list)


@dataclass
class _Entry:
    """One candidate: its steps done, and, while outside a slot, its state (a batch of one)."""

    request: Request
    pool: _Pool
    done: int
    state: State | None


class Engine:
    """Slots, and the candidates in them.

    Args:
        denoise, schedule, weights, guidance, renormalise, null, latent_shape, input_dtype, slots,
            device, implementation: as :class:`mitune.engine.slots.Slots`.
        seed: the run's seed, which keys all noise.
        scored: whether candidates carry the score and terms of their path; NaN if not. Without
            scores and at guidance 1 the denoiser is called with the conditional rows only.
        cuda_graphs: record the tick in a CUDA graph.
        stats: filled with what the runs cost.
    """

    def __init__(
        self,
        denoise: Denoiser,
        schedule: Schedule,
        weights: Tensor,
        *,
        guidance: float,
        renormalise: Callable[[Tensor, Tensor], Tensor] | None = None,
        seed: int,
        null: Conditioning,
        latent_shape: Sequence[int],
        input_dtype: torch.dtype = torch.float32,
        slots: int,
        device: torch.device,
        scored: bool = True,
        cuda_graphs: bool = False,
        implementation: str = "auto",
        stats: EngineStats | None = None,
    ) -> None:
        self._passes = 2 if scored or guidance != 1.0 else 1
        self._slots = Slots(
            denoise,
            schedule,
            weights,
            guidance=guidance,
            renormalise=renormalise,
            null=null,
            latent_shape=latent_shape,
            input_dtype=input_dtype,
            slots=slots,
            device=device,
            passes=self._passes,
            implementation=implementation,
        )
        if cuda_graphs:
            self._slots.capture()
        self._steps = schedule.steps
        self._counted = counted_steps(weights)
        self._scored = scored
        self._seed = seed
        self.stats = stats or EngineStats()
        self.stats.slots = slots
        self._seats: list[_Entry | None] = [None] * slots
        self._until = [0] * slots

    def warm_up(self) -> None:
        """Compile what a tick calls, and wait for it. All slots are idle, so no candidate moves."""
        for _ in range(2):
            self._slots.tick()
        self._slots.wait()

    def run(
        self,
        stream: Iterable[Request],
        prompts: PromptEncoder,
        policy: Callable[[int], Policy] | None = None,
    ) -> Iterator[Candidate]:
        """Generate the candidates of ``stream``.

        Args:
            stream: ordered by prompt; neighbours with the same ``prompt_index`` form a pool.
            prompts: the conditioning of each ``prompt_index``.
            policy: gives the policy of each ``prompt_index``; None prunes nothing.

        Yields:
            Each candidate once, when it is finished or dropped.

        Raises:
            ValueError: a policy has rungs outside 1 to N - 1, or returns invalid survivors.
        """
        fresh = self._entries(stream, prompts, policy or (lambda prompt_index: Unpruned()))
        survivors: deque[_Entry] = deque()
        while self._refill(itertools.chain(_drain(survivors), fresh)):
            self._tick()
            leaving = [s for s, e in enumerate(self._seats) if e and e.done == self._until[s]]
            if leaving:
                yield from self._leave(leaving, survivors)

    def _entries(
        self, stream: Iterable[Request], prompts: PromptEncoder, policy: Callable[[int], Policy]
    ) -> Iterator[_Entry]:
        for prompt_index, requests in itertools.groupby(stream, key=lambda each: each.prompt_index):
            members = list(requests)
            own = policy(prompt_index)
            if any(not 0 < rung < self._steps for rung in own.rungs):
                raise ValueError(f"policy: got rungs {own.rungs}, expected 1 to {self._steps - 1}")
            keys = candidate_keys([(self._seed, each.prompt, each.index) for each in members])
            pool = _Pool(
                policy=own,
                key={each.index: key for each, key in zip(members, keys, strict=True)},
                cond=prompts.row(prompt_index),
                left=len(members),
            )
            for request in members:
                yield _Entry(request=request, pool=pool, done=0, state=None)

    def _refill(self, entries: Iterator[_Entry]) -> bool:
        """Fill the free slots; returns whether any slot is occupied."""
        free = [slot for slot, entry in enumerate(self._seats) if entry is None]
        taken = list(itertools.islice(entries, len(free)))
        slots = free[: len(taken)]
        for slot, entry in zip(slots, taken, strict=True):
            self._seats[slot] = entry
            ahead = [rung for rung in entry.pool.policy.rungs if rung > entry.done]
            self._until[slot] = min([*ahead, self._steps])
        if taken:
            key = torch.stack([entry.pool.key[entry.request.index] for entry in taken])
            new = [i for i, entry in enumerate(taken) if entry.state is None]
            if new:
                for i, state in zip(new, _rows(self._slots.first(key[new])), strict=True):
                    taken[i].state = state
            self._slots.put(
                slots,
                key,
                [entry.pool.cond for entry in taken],
                _joined(taken),
                [entry.done for entry in taken],
            )
            for entry in taken:
                entry.state = None
        return len(taken) > 0 or len(free) < len(self._seats)

    def _tick(self) -> None:
        self._slots.tick()
        busy = [entry for entry in self._seats if entry]
        for entry in busy:
            entry.done += 1
        self.stats.ticks += 1
        self.stats.seats += len(self._seats)
        self.stats.steps += len(busy)
        self.stats.rows += self._passes * len(self._seats)

    def _leave(self, slots: list[int], survivors: deque[_Entry]) -> Iterator[Candidate]:
        entries = [entry for slot in slots if (entry := self._seats[slot])]
        state = self._slots.take(slots)
        for slot in slots:
            self._seats[slot] = None
        out = []
        for i, (entry, own) in enumerate(zip(entries, _rows(state), strict=True)):
            if entry.done == self._steps:
                out.append(i)
                continue
            entry.state = own
            entry.pool.arrived.append(entry)
            if len(entry.pool.arrived) == entry.pool.left:
                yield from self._decide(entry.pool, survivors)
        yield from self._candidates([entries[i] for i in out], State(*(t[out] for t in state)))

    def _decide(self, pool: _Pool, survivors: deque[_Entry]) -> Iterator[Candidate]:
        """Let the policy decide on a pool that is complete at a rung. The host waits for the
        device."""
        here = sorted(pool.arrived, key=lambda entry: entry.request.index)
        rung = here[0].done
        state = _joined(here)
        kept = pool.policy.survivors(rung, state.score.cpu(), state.terms[:, :rung].cpu())
        valid = all(isinstance(i, int) and 0 <= i < len(here) for i in kept)
        if not valid or not kept or kept != sorted(set(kept)):
            raise ValueError(
                f"policy: got survivors {kept!r} of {len(here)} at rung {rung}, expected ascending "
                "positions, at least one"
            )
        survivors.extend(here[i] for i in kept)
        pool.arrived, pool.left = [], len(kept)
        lost = [i for i in range(len(here)) if i not in set(kept)]
        yield from self._candidates([here[i] for i in lost], State(*(t[lost] for t in state)))

    def _candidates(self, entries: list[_Entry], state: State) -> Iterator[Candidate]:
        state = State(*(tensor.cpu() for tensor in state))
        if not self._scored:
            state.score.fill_(math.nan)
            state.terms.fill_(math.nan)
        for i, entry in enumerate(entries):
            state.terms[i, entry.done :] = math.nan
            yield Candidate(
                prompt=entry.request.prompt,
                prompt_index=entry.request.prompt_index,
                index=entry.request.index,
                seed=self._seed,
                score=float(state.score[i]),
                terms=state.terms[i],
                latent=state.z[i],
                steps=entry.done,
                pruned=entry.done < self._counted,
            )


def counted_steps(weights: Tensor) -> int:
    """The number of steps after which a score is complete: the position of the last weight that is
    not 0, counted from 1; all steps if there is none."""
    counted = weights.nonzero()
    return int(counted[-1]) + 1 if len(counted) else len(weights)


def _drain(entries: deque[_Entry]) -> Iterator[_Entry]:
    while entries:
        yield entries.popleft()


def _joined(entries: list[_Entry]) -> State:
    """Concatenate the states of entries that are outside a slot."""
    states = [entry.state for entry in entries if entry.state is not None]
    return State(*(torch.cat(parts) for parts in zip(*states, strict=True)))


def _rows(state: State) -> list[State]:
    """Split a state into one state for each row."""
    return [State(*parts) for parts in zip(*(tensor.split(1) for tensor in state), strict=True)]
