"""The batches of a run: a pure function of (seed, step, position), also if the run is resumed or
split over processes.

The whole set is on the device. The pair at a position comes from consecutive shuffled epochs; its
timestep and noise come from Philox words keyed by (seed, step, position).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from mitune_kernels import normal, philox
from torch import Tensor

from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.diffusion.noise import prompt_id
from mitune.models.buckets import buckets
from mitune.models.protocol import Conditioning, LatentModel
from mitune.training.groups import Group

# The word of the key that holds the prompt's hash in generation: it separates these random streams
# from each other and from those of the candidates.
_SHUFFLE, _TIMES, _NOISE, _PRIOR = (
    prompt_id(f"mitune.tuning/{use}") for use in ("shuffle", "times", "noise", "prior")
)


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """B samples of one pass, on the model's device.

    Attributes:
        latents, noise: ``[B, C, H, W]`` float32, the clean latents and the noise.
        t: ``[B]`` timesteps, of the process's dtype.
        cond: B rows of conditioning; of tokens if the text encoder is trained.
        weight: ``[B]`` float32, the weight of each sample's loss; None is 1.
        worse: ``[B, C, H, W]`` float32, clean latents that the others are preferred to; None: there
            are none.
        wrong: B rows of conditioning of prompts that do not fit; None: there are none.
    """

    latents: Tensor
    noise: Tensor
    t: Tensor
    cond: Conditioning
    weight: Tensor | None = None
    worse: Tensor | None = None
    wrong: Conditioning | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "MicroBatch":
        """The samples with ``change`` applied to each tensor."""
        return MicroBatch(
            latents=change(self.latents),
            noise=change(self.noise),
            t=change(self.t),
            cond={name: change(tensor) for name, tensor in self.cond.items()},
            weight=None if self.weight is None else change(self.weight),
            worse=None if self.worse is None else change(self.worse),
            wrong=None
            if self.wrong is None
            else {name: change(tensor) for name, tensor in self.wrong.items()},
        )

    def copy_(self, other: "MicroBatch") -> None:
        """Copy the samples of ``other``, which has the same shapes, into these tensors."""
        for own, its in zip(self._tensors(), other._tensors(), strict=True):
            own.copy_(its)

    def _tensors(self) -> list[Tensor]:
        others = [each for each in (self.weight, self.worse) if each is not None]
        wrong = () if self.wrong is None else self.wrong.values()
        return [self.latents, self.noise, self.t, *self.cond.values(), *others, *wrong]

    def chunk(self, parts: int) -> list["MicroBatch"]:
        """Split the samples into at most ``parts`` parts, of equal size if ``parts`` divides B."""
        size = -(-len(self.t) // parts)
        cuts = [
            partial(torch.narrow, dim=0, start=i, length=min(size, len(self.t) - i))
            for i in range(0, len(self.t), size)
        ]
        return [self.map(cut) for cut in cuts]


class Batches:
    """The (prompt, latent) pairs on the device, and the samples of every step.

    With a prior, each step has ``batch`` more positions, after the others; they train on the pairs
    of the prior. The samples at the first ``batch`` positions do not depend on the prior.

    Args:
        model: encodes each distinct prompt once, or only tokenizes it if the text encoder is
            trained.
        pairs: (prompt, latent ``[C, H, W]`` float32).
        config: seed, batch, micro_batch, t_range, caption_dropout, text_encoder_lr and prior_weight
            are used.
        prior: pairs of the prior-preservation term.
        worse: for each of ``pairs`` a pair that it is preferred to, of its size.
        weights: of each pair's loss; none: 1 each.
        wrong: for each prompt one that does not fit its pictures; or none at all.

    Raises:
        UserError: if there are no pairs, a latent has the wrong shape or is not finite, or t_range
            exceeds the model's timesteps.
    """

    def __init__(
        self,
        model: LatentModel,
        pairs: Sequence[tuple[str, Tensor]],
        config: TuneConfig,
        prior: Sequence[tuple[str, Tensor]] = (),
        worse: Sequence[tuple[str, Tensor]] = (),
        weights: Sequence[float] = (),
        wrong: Mapping[str, str] | None = None,
    ) -> None:
        if not pairs:
            raise UserError("the set has no selected pair: expected at least one; finish its build")
        _check(model, pairs, "set")
        _check(model, prior, "prior set")
        _check(model, worse, "set of worse pictures")
        check_times(model, config)
        self._config, self._process = config, model.process
        self._own, self._prior = len(pairs), len(prior)
        self._weights: Tensor | None = None
        if weights or prior:
            own = torch.tensor(weights or [1.0] * len(pairs))
            self._weights = torch.cat([own, torch.full((len(prior),), config.prior_weight)])
        pairs = [*pairs, *prior]
        self._size = config.batch * (2 if prior else 1)
        self.device = model.device
        sizes = [(int(latent.shape[-2]), int(latent.shape[-1])) for _, latent in pairs]
        self._groups = [
            Group(
                model,
                pairs,
                [i for i, own in enumerate(sizes) if own == size],
                config,
                worse,
                wrong or {},
            )
            for size in dict.fromkeys(sizes)
        ]
        numbers = {size: number for number, size in enumerate(dict.fromkeys(sizes))}
        self._group = torch.tensor([numbers[size] for size in sizes])

    def __len__(self) -> int:
        """The number of pairs, without those of the prior."""
        return self._own

    def pairs(self, step: int) -> Tensor:
        """The index of the pair at each position of ``step`` (from 0): ``[batch]`` int64 on the
        CPU, or ``[2 batch]`` with a prior."""
        found = self._shuffled(step, _SHUFFLE, self._own)
        if not self._prior:
            return found
        return torch.cat([found, self._own + self._shuffled(step, _PRIOR, self._prior)])

    def _shuffled(self, step: int, stream: int, count: int) -> Tensor:
        """``[batch]`` indices below ``count``, from consecutive shuffled epochs."""
        place = step * self._config.batch + torch.arange(self._config.batch)
        epoch, within = place // count, place % count
        epochs, row = epoch.unique(return_inverse=True)
        words = philox(self._key(stream, torch.zeros_like(epochs)), epochs, count)
        order = words.argsort(dim=1, stable=True)
        return order[row, within]

    def times(self, step: int) -> tuple[Tensor, Tensor]:
        """For each position of ``step``: its timestep in t_range, of the process's dtype, and
        whether its caption is dropped (bool). Both have the length of ``pairs`` and are on the CPU.
        """
        size = self._size
        words = philox(self._key(_TIMES, torch.arange(size)), torch.full((size,), step), 2)
        t = self._process.training_t(words[:, 0], self._config.t_range)
        return t, words[:, 1] < self._config.caption_dropout * 2**32

    def step(
        self,
        step: int,
        micro_batch: int | None = None,
        part: Callable[[Tensor], Tensor] = lambda positions: positions,
    ) -> Iterator[MicroBatch]:
        """Yield the micro-batches of ``step`` (from 0), each of pictures of one size. Together they
        cover the batch and the prior's batch, each position once.

        Args:
            step: number of the optimizer step.
            micro_batch: samples in one micro-batch; None takes the config's.
            part: selects the positions of this process.
        """
        pairs = self.pairs(step)
        t, dropped = self.times(step)
        asked = self._config.micro_batch
        size = micro_batch or (self._config.batch if asked == "auto" else asked)
        weights = self._weights
        own = part(torch.arange(self._size))  # none, if this process has no samples in this batch
        for number, group in enumerate(self._groups):
            mine = own[self._group[pairs[own]] == number]
            for positions in mine.split(size) if len(mine) else ():
                keys = self._key(_NOISE, positions).to(self.device)
                steps = torch.full((len(positions),), step, device=self.device)
                numbers = pairs[positions]
                latents, cond = group.take(numbers, dropped[positions])
                yield MicroBatch(
                    latents=latents,
                    noise=normal(keys, steps, latents.shape[1:]),
                    t=t[positions].to(self.device),
                    cond=cond,
                    weight=None if weights is None else weights[numbers].to(self.device),
                    worse=group.worse(numbers),
                    wrong=group.wrong(numbers),
                )

    @property
    def sizes(self) -> int:
        """How many sizes of pictures there are."""
        return len(self._groups)

    def _key(self, stream: int, position: Tensor) -> Tensor:
        """Philox keys ``[B, 4]``: the seed, ``position`` ([B] int64) in the place of the candidate,
        ``stream`` in that of the prompt."""
        seed = self._config.seed
        low, high, last = (
            torch.full_like(position, word) for word in (seed & 0xFFFFFFFF, seed >> 32, stream)
        )
        return torch.stack([low, high, position, last], dim=1)


def check_times(model: LatentModel, config: TuneConfig) -> None:
    """Raise UserError unless ``t_range`` lies within the model's timesteps."""
    trained = int(model.scheduler.config.num_train_timesteps)
    if config.t_range[1] > trained:
        raise UserError(
            f"t_range is {config.t_range}: expected an end of at most {trained}, the model's "
            "timesteps"
        )


def _of_bucket(model: LatentModel, latent: Tensor) -> bool:
    channels = model.latent_shape[0]
    return latent.ndim == 3 and len(latent) == channels and latent.shape[1:] in buckets(model)


def _check(model: LatentModel, pairs: Sequence[tuple[str, Tensor]], name: str) -> None:
    for number, (prompt, latent) in enumerate(pairs):
        if tuple(latent.shape) != tuple(model.latent_shape) and not _of_bucket(model, latent):
            raise UserError(
                f"pair {number} ({prompt!r}) of the {name} has a latent of shape "
                f"{list(latent.shape)}: expected {list(model.latent_shape)}; use a set built with "
                "this model, at this size"
            )
        if not latent.isfinite().all():
            raise UserError(
                f"pair {number} ({prompt!r}) of the {name} has a latent that is not finite: "
                "expected numbers; build the set again"
            )
