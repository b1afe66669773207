"""The engine: a fixed number of slots, one batched pass over all of them each tick.

Every slot holds one candidate at its own timestep under its own prompt. A slot whose candidate is
done is refilled from the stream of work, so that the shape of the batch never changes. The solver,
the guidance, the score and the noise are one operation on a table (``mitune_kernels.step``); there
is no scheduler object, and the host only counts: since each candidate takes exactly N steps, it
knows without asking the device when a slot is done.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import mitune_kernels
import torch
from torch import Tensor

from mitune.candidate import Candidate
from mitune.denoiser import Conditioning, Denoiser
from mitune.noise import candidate_keys
from mitune.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Work:
    """One candidate to make: candidate ``index`` of ``prompt``, the run's prompt number
    ``prompt_index``."""

    prompt: str
    prompt_index: int
    index: int


class PromptEncoder:
    """Conditioning of the run's prompts, encoded in fixed blocks the first time one of them is
    needed.

    Blocks follow the run's list, never the state of the stream: a resumed run encodes the same
    texts together, and so gets the same bits.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[str]], Conditioning],
        prompts: Sequence[str],
        block: int = 32,
    ) -> None:
        self._encode = encode
        self._prompts = prompts
        self._block = block
        self._current = -1
        self._rows: Conditioning = {}

    def row(self, prompt_index: int) -> dict[str, Tensor]:
        """The conditioning of one prompt, without the row dimension. Streams go forward, so one
        block is kept."""
        block, offset = divmod(prompt_index, self._block)
        if block != self._current:
            start = block * self._block
            self._rows = self._encode(self._prompts[start : start + self._block])
            self._current = block
        return {name: tensor[offset] for name, tensor in self._rows.items()}


class Engine:
    """Slots and their tick.

    Args:
        denoise: predicts for ``[2 S, C, H, W]``, the unconditional rows first; for ``[S, C, H, W]``
            where nothing needs those, which is at guidance 1 without scores.
        schedule: the solver's table; its prediction type is the denoiser's.
        weights: ``[N]`` float64, of each step in the score.
        guidance: classifier-free guidance scale.
        seed: the run's seed, which keys all noise.
        null: conditioning of the empty prompt, one row.
        latent_shape: (C, H, W).
        input_dtype: of the latents that the denoiser is called with; the engine's own are float32.
        slots: S, candidates in flight.
        device: where the denoiser runs.
        scored: whether candidates carry their score and terms along the path; NaN if not.
        implementation: of ``mitune_kernels.step``.
    """

    def __init__(
        self,
        denoise: Denoiser,
        schedule: Schedule,
        weights: Tensor,
        *,
        guidance: float,
        seed: int,
        null: Conditioning,
        latent_shape: Sequence[int],
        input_dtype: torch.dtype = torch.float32,
        slots: int,
        device: torch.device,
        scored: bool = True,
        implementation: str = "auto",
    ) -> None:
        self._denoise = denoise
        self._steps = schedule.steps
        self._init_scale = schedule.init_scale
        self._guidance = guidance
        self._scored = scored
        self._passes = 2 if scored or guidance != 1.0 else 1
        self._seed = seed
        self._implementation = implementation
        self._table = schedule.table(weights, device)
        self._slots = slots
        self._device = device
        self._z = torch.zeros(slots, *latent_shape, device=device)
        # What the model is called with. The step writes its next latents and timesteps there.
        self._input = torch.zeros(
            self._passes * slots, *latent_shape, dtype=input_dtype, device=device
        )
        self._t = self._table[0, 4].repeat(self._passes * slots)
        self._score = torch.zeros(slots, device=device)
        # -1 marks an idle slot: the model computes its row with the batch, the step leaves it
        # untouched.
        self._index = torch.full((slots,), -1, dtype=torch.int64, device=device)
        self._key = torch.zeros(slots, 4, dtype=torch.int64, device=device)
        self._terms = torch.zeros(slots, self._steps, 2, device=device)
        self._cond = {
            name: tensor.expand(self._passes * slots, *tensor.shape[1:]).clone()
            for name, tensor in null.items()
        }
        self._work: list[Work | None] = [None] * slots
        self._left = [0] * slots

    def run(self, stream: Iterable[Work], prompts: PromptEncoder) -> Iterator[Candidate]:
        """Make every candidate of ``stream``; yields each when it is done, in the order of
        completion."""
        pending = iter(stream)
        self._refill(pending, prompts)
        while any(self._left):
            self._tick()
            done = [
                s for s in range(self._slots) if self._work[s] is not None and self._left[s] == 0
            ]
            if done:
                yield from self._retire(done)
                self._refill(pending, prompts)

    def _refill(self, pending: Iterator[Work], prompts: PromptEncoder) -> None:
        taken = []
        for slot in range(self._slots):
            if self._work[slot] is None and (work := next(pending, None)) is not None:
                self._work[slot] = work
                self._left[slot] = self._steps
                taken.append((slot, work))
        if not taken:
            return
        rows = torch.tensor([slot for slot, _ in taken], device=self._device)
        key = candidate_keys([(self._seed, work.prompt, work.index) for _, work in taken])
        key = key.to(self._device)
        first = torch.zeros(len(taken), dtype=torch.int64, device=self._device)
        noise = mitune_kernels.normal(key, first, self._z.shape[1:], impl=self._implementation)
        z = self._init_scale * noise
        self._z[rows] = z
        self._input.unflatten(0, (self._passes, self._slots))[:, rows] = z.to(self._input.dtype)
        self._t.view(self._passes, self._slots)[:, rows] = self._table[0, 4]
        self._key[rows] = key
        self._score[rows] = 0.0
        self._index[rows] = 0
        for slot, work in taken:
            for name, tensor in prompts.row(work.prompt_index).items():
                self._cond[name][slot - self._slots] = tensor

    @torch.no_grad()
    def _tick(self) -> None:
        prediction = self._denoise(self._input, self._t, self._cond)
        # One and the same where there is a single pass: guidance 1 is the conditional prediction.
        uncond, cond = prediction[: self._slots], prediction[-self._slots :]
        # All in place, and each step's terms at its place in the history: between two calls of the
        # model this is the only operation.
        mitune_kernels.step_out(
            uncond,
            cond,
            self._z,
            self._score,
            self._index,
            self._key,
            self._table,
            self._guidance,
            self._z,
            self._score,
            self._terms,
            model_input=self._input,
            index_next=self._index,
            t_next=self._t,
            impl=self._implementation,
        )
        self._left = [max(0, left - 1) for left in self._left]

    def _retire(self, done: list[int]) -> Iterator[Candidate]:
        rows = torch.tensor(done, device=self._device)
        latents = self._z[rows].cpu()
        scores, terms = self._score[rows].cpu(), self._terms[rows].cpu()
        if not self._scored:
            scores, terms = torch.full_like(scores, math.nan), torch.full_like(terms, math.nan)
        for i, slot in enumerate(done):
            work = self._work[slot]
            self._work[slot] = None
            if work is not None:
                yield Candidate(
                    prompt=work.prompt,
                    prompt_index=work.prompt_index,
                    index=work.index,
                    seed=self._seed,
                    score=float(scores[i]),
                    terms=terms[i],
                    latent=latents[i],
                )
