"""Draw a prompt's candidates by the base model and by the tuned one, and score them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mitune.adapters import adapter as adapters
from mitune.config.runtime import Runtime
from mitune.config.sampling import SamplerConfig
from mitune.config.sets import GenerateConfig, RealConfig
from mitune.core.images import as_pictures, png_of
from mitune.core.prompts import check_prompts
from mitune.engine.slot_count import with_slots
from mitune.engine.stream import generate
from mitune.models.protocol import LatentModel
from mitune.scoring.score import score


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture.

    Attributes:
        png: its file.
        nats: its point-wise mutual information with the prompt, by the base model.
    """

    png: bytes
    nats: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What one noise becomes.

    Attributes:
        number: of the noise, from 1.
        base: by the base model.
        tuned: by the model with the adapter; None: there is no adapter.
    """

    number: int
    base: Shown
    tuned: Shown | None


class Drawer:
    """A model that draws for one request after the other.

    Args:
        model: without an adapter.
        adapter: folder or file of the one to compare with the base; None: none.
        sampler: how pictures are drawn.
        runtime: what runs the denoiser.

    Raises:
        UserError: the adapter is not one of this model.
    """

    def __init__(
        self, model: LatentModel, adapter: Path | None, sampler: SamplerConfig, runtime: Runtime
    ) -> None:
        self._model, self._adapter = model, adapter
        self._sampler, self._runtime = sampler, runtime
        self._one = threading.Lock()
        with self._tuned():
            pass  # a wrong adapter is told now, and not at the first request

    @property
    def compares(self) -> bool:
        """Whether there is an adapter."""
        return self._adapter is not None

    def draw(self, prompt: str, count: int, seed: int) -> list[Candidate]:
        """The candidates of a prompt, those with the most mutual information first.

        Args:
            prompt: one text.
            count: of candidates; base and tuned model begin each from the same noise.
            seed: keys all noise.

        Raises:
            UserError: a prompt that no tokenizer takes, or a seed out of range.
        """
        check_prompts([prompt])
        # No more slots than candidates: empty ones are computed too.
        config = GenerateConfig(
            candidates=count,
            sampler=self._sampler,
            seed=seed,
            scored=False,
            runtime=with_slots(self._model, self._runtime, self._sampler, count),
        )
        with self._one:
            latents = [self._drawn(prompt, config)]
            if self.compares:
                with self._tuned():
                    latents.append(self._drawn(prompt, config))
            both = torch.cat(latents)
            rule = RealConfig.of(self._model.preset).score
            nats = score(
                self._model,
                [prompt] * len(both),
                both,
                replace(rule, seed=seed, runtime=self._runtime),
            ).tolist()
            pngs = [png_of(picture) for picture in as_pictures(self._model.decode(both))]
        shown = [Shown(png=png, nats=value) for png, value in zip(pngs, nats, strict=True)]
        tuned: list[Shown | None] = [*shown[count:]] or [None] * count
        made = [
            Candidate(number=number, base=base, tuned=after)
            for number, (base, after) in enumerate(zip(shown[:count], tuned, strict=True), 1)
        ]
        return sorted(made, key=lambda each: -each.base.nats)

    def _drawn(self, prompt: str, config: GenerateConfig) -> torch.Tensor:
        made = sorted(generate(self._model, [prompt], config), key=lambda each: each.index)
        return torch.stack([each.latent for each in made])

    @contextmanager
    def _tuned(self) -> Iterator[None]:
        """The model with the adapter on it, for a while."""
        if self._adapter is not None:
            adapters.load(self._model, self._adapter, fingerprint=self._model.fingerprint)
        try:
            yield
        finally:
            adapters.detach(self._model)
