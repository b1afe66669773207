"""The authors' pipelines: many pictures of a prompt, of which the one with the highest mutual
information is returned."""

from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from mitune.compat.loaded import Loaded
from mitune.compat.loop import draw_pool
from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.core.images import as_pictures
from mitune.core.prompts import check_prompts
from mitune.diffusion.schedule import SOLVERS, Schedule
from mitune.engine.policies import best
from mitune.engine.stream import generate
from mitune.models.family import families
from mitune.scoring.rfmi import rfmi


class Selected(NamedTuple):
    """What a call returns: all of the selected picture."""

    prompt_embeds: Tensor
    """``[1, L, D]``."""
    pooled_prompt_embeds: Tensor | None
    """``[1, P]``; None where the model has none."""
    latents: Tensor
    """``[1, C, H, W]`` float32."""
    images: list[Any]
    """One ``PIL.Image``."""


class _Selection(Loaded):
    """What the authors' classes share; what differs stands with each family.

    Attributes:
        scores: after a call ``[M]``, the score of each candidate, in nats.
        selected: after a call, the position of the winner.
    """

    scores: Tensor | None = None
    selected: int | None = None
    RFMI: ClassVar[bool]
    STEPS: ClassVar[int]
    GUIDANCE: ClassVar[float]
    """Of a call that does not give them, as in the authors' classes."""

    def __call__(
        self,
        prompt: str | list[str],
        *,
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        generator: Any = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        return_dict: bool = True,
        noise: str | None = None,
        batch: int = 64,
    ) -> Any:
        """Draw a pool and select.

        Args:
            prompt: one text.
            num_images_per_prompt: size of the pool.
            num_inference_steps, guidance_scale: of the sampler; None: as the authors' class has
                them.
            generator: the caller's random numbers.
            height, width: of the pictures in pixels; None: the model's own.
            return_dict: False: the four values of ``Selected`` as a tuple, as in the authors'
                scripts; True: ``Selected`` itself.
            noise: "torch": from ``generator``, in the order in which diffusers draws; "keyed": from
                the seed of ``generator``, on the engine's slots, where a picture does not depend on
                the size of the pool. None: "torch" where there is a generator.
            batch: candidates in one call of the network: memory and speed, no picture.

        Raises:
            UserError: more than one prompt, a number out of range, or a scheduler without a table.
        """
        text = prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt
        if not isinstance(text, str):
            raise UserError(f"prompt is {prompt!r}: expected one text")
        check_prompts([text])
        if num_images_per_prompt < 1 or batch < 1:
            raise UserError(
                f"num_images_per_prompt is {num_images_per_prompt} and batch {batch}: expected at "
                "least 1"
            )
        kind = noise or ("keyed" if generator is None else "torch")
        if kind not in ("keyed", "torch"):
            raise UserError(f"noise {kind!r} is not known: choose keyed or torch")
        _check_generator(generator, kind, num_images_per_prompt)
        guidance = self.GUIDANCE if guidance_scale is None else guidance_scale
        model = self._model((height, width))
        sampler = SamplerConfig(
            steps=self.STEPS if num_inference_steps is None else num_inference_steps,
            guidance=guidance,
            scheduler=self._solver(),
            convention="mean" if self.RFMI else "reference",
        )
        schedule = model.schedule(sampler)
        cond = model.encode_prompts([text])
        if kind == "torch":
            latents, terms = draw_pool(
                model,
                schedule,
                cond,
                model.encode_null(),
                count=num_images_per_prompt,
                guidance=guidance,
                generator=generator,
                batch=batch,
            )
        else:
            pool = sorted(
                generate(
                    model,
                    [text],
                    candidates=num_images_per_prompt,
                    sampler=sampler,
                    seed=0 if generator is None else generator.initial_seed() % 2**63,
                    slots=min(batch, num_images_per_prompt),
                ),
                key=lambda candidate: candidate.index,
            )
            latents = torch.stack([candidate.latent for candidate in pool])
            terms = torch.stack([candidate.terms for candidate in pool])
        self.scores = self._score(terms.cpu(), schedule, guidance)
        self.selected = best(self.scores, 1)[0]
        winner = latents[self.selected : self.selected + 1]
        pooled = cond.get(model.pooled_name)  # type: ignore[attr-defined]
        made = Selected(
            prompt_embeds=cond[model.text_name].float().cpu(),  # type: ignore[attr-defined]
            pooled_prompt_embeds=None if pooled is None else pooled.float().cpu(),
            latents=winner.cpu(),
            images=as_pictures(model.decode(winner)),
        )
        return made if return_dict else tuple(made)

    def _score(self, terms: Tensor, schedule: Schedule, guidance: float) -> Tensor:
        if self.RFMI:
            return rfmi(terms, schedule, guidance).float()
        weights = schedule.weights("reference")
        if schedule.process.prediction == "v_prediction":
            # The authors' code takes the difference of whatever is predicted for that of the noise.
            weights = weights / schedule.process.levels(schedule.timesteps.long())[0].square()
        return (terms[..., 0].double() @ weights).float()

    def _solver(self) -> Any:
        """The scheduler's own class if the engine has its solver; else the paper's."""
        own = type(self.scheduler).__name__
        if self.RFMI:
            return "euler"
        return next((name for name, kind in SOLVERS.items() if kind == own), "ddpm")


@cache
def _authors_class(name: str) -> type[_Selection] | None:
    """The class of that name for the family that it belongs to; None: the authors have none."""
    family = next((f for f in families() if f.authors and f.authors.name == name), None)
    if family is None or family.authors is None:
        return None
    own = family.authors
    content = {
        "__doc__": f"The authors' class of {family.title}.",
        "__module__": __name__,
        "KIND": family.pipeline,
        "RFMI": own.rfmi,
        "STEPS": own.steps,
        "GUIDANCE": own.guidance,
    }
    return type(name, (_Selection,), content)


def __getattr__(name: str) -> type[_Selection]:
    found = _authors_class(name)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found


def _check_generator(generator: Any, noise: str, count: int) -> None:
    many = isinstance(generator, (list, tuple))
    if generator is not None and not many and not isinstance(generator, torch.Generator):
        kind = type(generator).__name__
        raise UserError(f"generator is a {kind}: expected a torch.Generator, or a list of them")
    if many and noise == "keyed":
        raise UserError("generator is a list and noise keyed: expected one torch.Generator")
    if many and len(generator) != count:
        raise UserError(f"there are {len(generator)} generators: expected {count}, one a picture")
