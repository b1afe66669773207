"""The state of the candidates in flight on the device, and the tick that moves all of them by one
step.

Every buffer keeps its address, and a tick is one model call and a fixed sequence of operations on
these buffers, so a CUDA graph can record it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import mitune_kernels
import torch
from torch import Tensor

from mitune.diffusion.schedule import Schedule
from mitune.models.protocol import Conditioning, Denoiser, PairDenoiser
from mitune.runtime.cpu_workers import undisturbed
from mitune.runtime.cuda_graphs import capture, need_gpu


class State(NamedTuple):
    """The state of n candidates between two steps, on the slots' device."""

    z: Tensor
    """``[n, C, H, W]`` float32, the latents."""
    score: Tensor
    """``[n]`` float32, nats so far."""
    terms: Tensor
    """``[n, N, 2]`` float32; valid for the steps that are done."""


class Slots:
    """S candidates in flight, each at its own step under its own prompt.

    Args:
        denoise: called with ``[2 S, C, H, W]``, the unconditional rows first; through its ``pairs``
            if it has them; or with ``[S, C, H, W]`` if ``passes`` is 1.
        schedule: the solver's table; its prediction type is the denoiser's.
        weights: ``[N]`` float64, the weight of each step in the score.
        guidance: classifier-free guidance scale.
        renormalise: of the guided prediction, as ``mitune.models.protocol.LatentModel``.
        null: conditioning that stands for no prompt, one row.
        latent_shape: (C, H, W).
        input_dtype: of the latents that the denoiser is given; the slots' own are float32.
        slots: S.
        device: where the denoiser runs.
        passes: 2, or 1 for the conditional pass only.
        implementation: of ``mitune_kernels.step``.
    """

    def __init__(
        self,
        denoise: Denoiser,
        schedule: Schedule,
        weights: Tensor,
        *,
        guidance: float,
        renormalise: Callable[[Tensor, Tensor], Tensor] | None,
        null: Conditioning,
        latent_shape: Sequence[int],
        input_dtype: torch.dtype,
        slots: int,
        device: torch.device,
        passes: int,
        implementation: str,
    ) -> None:
        self.count = slots
        self._denoise: Callable[[Tensor, Tensor, Conditioning], Tensor] = denoise
        self._own_cores = getattr(denoise, "own_cores", False)
        self._copies = passes
        if passes == 2 and isinstance(denoise, PairDenoiser):
            self._denoise, self._copies = denoise.pairs, 1
        self._guidance = guidance
        self._renormalise = renormalise if guidance != 1.0 else None
        self._implementation = implementation
        self._init_scale = schedule.init_scale
        self._table = schedule.table(weights, device)
        self._device = device
        self._z = torch.zeros(slots, *latent_shape, device=device)
        self._key = torch.zeros(slots, 4, dtype=torch.int64, device=device)
        # The model's input; the step writes the next latents and timesteps into it. It starts as
        # noise because the model also computes the rows of idle slots, and zeros would be less work
        # for a GPU than a candidate.
        noise = mitune_kernels.normal(
            self._key, self._key.new_zeros(slots), latent_shape, impl=implementation
        )
        self._input = torch.cat([noise.to(input_dtype)] * self._copies)
        self._t = self._table[0, 4].repeat(self._copies * slots)
        self._score = torch.zeros(slots, device=device)
        # -1 marks an idle slot: the model computes its row with the batch, but the step does not
        # change it.
        self._index = torch.full((slots,), -1, dtype=torch.int64, device=device)
        self._terms = torch.zeros(slots, schedule.steps, 2, device=device)
        self._replay: Callable[[], None] | None = None
        self._cond = {
            name: tensor.expand(passes * slots, *tensor.shape[1:]).clone()
            for name, tensor in null.items()
        }

    def first(self, key: Tensor) -> State:
        """The states that n candidates start from: their noise, and zero score and terms.

        Args:
            key: ``[n, 4]`` int64, of ``mitune.diffusion.noise.candidate_keys``, on any device.
        """
        key = key.to(self._device)
        step = torch.zeros(len(key), dtype=torch.int64, device=self._device)
        noise = mitune_kernels.normal(key, step, self._z.shape[1:], impl=self._implementation)
        return State(
            z=self._init_scale * noise,
            score=self._score.new_zeros(len(key)),
            terms=self._terms.new_zeros(len(key), *self._terms.shape[1:]),
        )

    def put(
        self,
        slots: Sequence[int],
        key: Tensor,
        cond: Sequence[Mapping[str, Tensor]],
        state: State,
        done: Sequence[int],
    ) -> None:
        """Put n candidates into ``slots``.

        Args:
            slots: n free slots.
            key: ``[n, 4]`` int64, the keys of their noise.
            cond: the conditioning of each, without the row dimension.
            state: n rows, from which they continue.
            done: how many steps each has done, less than N.
        """
        rows = torch.tensor(slots, device=self._device)
        index = torch.tensor(done, device=self._device)
        self._z[rows] = state.z
        self._score[rows] = state.score
        self._terms[rows] = state.terms
        self._key[rows] = key.to(self._device)
        self._index[rows] = index
        self._input.unflatten(0, (self._copies, self.count))[:, rows] = state.z.to(
            self._input.dtype
        )
        self._t.view(self._copies, self.count)[:, rows] = self._table[index, 4]
        for slot, record in zip(slots, cond, strict=True):
            for name, tensor in record.items():
                self._cond[name][slot - self.count] = tensor

    def take(self, slots: Sequence[int]) -> State:
        """Copies of the states in ``slots``; these slots are idle from now on."""
        rows = torch.tensor(slots, device=self._device)
        self._index[rows] = -1
        return State(z=self._z[rows], score=self._score[rows], terms=self._terms[rows])

    def tick(self) -> None:
        """Move every candidate in flight by one step."""
        if self._replay is None:
            with undisturbed() if self._own_cores else nullcontext():
                self._step()
        else:
            self._replay()

    def wait(self) -> None:
        """Wait until the device has finished its work."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def capture(self) -> None:
        """Record the tick in a CUDA graph, which later ticks replay. All slots must be idle, so
        that neither the warm-up calls nor the recorded one moves a candidate.

        Raises:
            UserError: the slots are not on a GPU.
        """
        need_gpu(self._device)
        self._replay = capture(self._step, self._device)

    @torch.no_grad()
    def _step(self) -> None:
        prediction = self._denoise(self._input, self._t, self._cond)
        # With a single pass both are the same rows: guidance 1 is the conditional prediction.
        uncond, cond = prediction[: self.count], prediction[-self.count :]
        change = self._change(uncond, cond)
        # Everything is written in place, and the terms go to their place in the history: unless
        # the family renormalises, this is the only operation between two calls of the model.
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
        if change is not None:
            self._z += change
            self._input.unflatten(0, (self._copies, self.count)).copy_(self._z)

    def _change(self, uncond: Tensor, cond: Tensor) -> Tensor | None:
        """What renormalising the guided prediction adds to the next latents, ``[S, C, H, W]``: the
        step is linear in that prediction, so its kernels stay as they are."""
        if self._renormalise is None:
            return None
        uncond, cond = uncond.float(), cond.float()
        guided = uncond + self._guidance * (cond - uncond)
        change = self._renormalise(guided, cond) - guided
        # As the kernel, this leaves idle slots alone, whose predictions may be NaN.
        rows = (-1, *[1] * (change.ndim - 1))
        idle = (self._index < 0).view(rows)
        return torch.where(idle, 0.0, self._table[self._index.clamp(min=0), 1].view(rows) * change)
