"""The authors' pipelines: many pictures of a prompt, of which the one with the highest mutual
information is returned."""

import copy
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from mitune.adapters import adapter
from mitune.compat.loop import draw_pool
from mitune.core.errors import UserError
from mitune.core.images import as_pictures
from mitune.core.prompts import check_prompts
from mitune.diffusion.schedule import SOLVERS, Schedule
from mitune.engine.policies import best
from mitune.engine.stream import generate
from mitune.load import load, pick_device
from mitune.models.loading import load_pipeline
from mitune.models.protocol import LatentModel
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


class _Selection:
    """What the three classes share.

    Attributes:
        scheduler: of the pipeline; another one may be assigned, as in diffusers.
        scores: after a call ``[M]``, the score of each candidate, in nats.
        selected: after a call, the position of the winner.
    """

    KIND: ClassVar[str]
    """Class of the pipelines that it takes."""
    FLOW: ClassVar[bool] = False

    def __init__(self, pipeline: Any, name: str, precision: str) -> None:
        if type(pipeline).__name__ != self.KIND:
            raise UserError(
                f"model {name} is a {type(pipeline).__name__}: expected a {self.KIND} for "
                f"{type(self).__name__}"
            )
        self.pipeline, self._name, self._precision = pipeline, name, precision
        self.scheduler = pipeline.scheduler
        self.scores: Tensor | None = None
        self.selected: int | None = None
        self._device: str | None = None
        self._adapter: Path | None = None
        self._made: tuple[Any, LatentModel] | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        torch_dtype: torch.dtype = torch.float32,
        variant: str | None = None,
        **unused: Any,
    ) -> Any:
        """Load a folder or a hub name.

        Args:
            pretrained_model_name_or_path: as in diffusers.
            torch_dtype: of the denoiser; latents and scores are float32.
            variant: of the weights, such as "fp16".
            unused: options of diffusers that change no picture, such as ``use_safetensors``.
        """
        _, pipeline = load_pipeline(str(pretrained_model_name_or_path), variant)
        return cls(pipeline, str(pretrained_model_name_or_path), _precision(torch_dtype))

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Any:
        """Choose where the networks run, and perhaps the denoiser's dtype."""
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if device is not None:
            self._device = str(device)
        if dtype is not None:
            self._precision = _precision(dtype)
        self._forget()
        return self

    def mi_weight_init(self) -> None:
        """Nothing: the weights of the score are made with each call."""

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: Any,
        weight_name: str | None = None,
        wforeight_name: str | None = None,
        adapter_name: str | None = None,
    ) -> None:
        """Put a LoRA or DoRA on the model.

        Args:
            pretrained_model_name_or_path_or_dict: a folder or a file.
            weight_name: of the file in the folder; ``wforeight_name`` is the same, as the authors'
                scripts spell it.
            adapter_name: any; there is one adapter.
        """
        path = Path(pretrained_model_name_or_path_or_dict)
        name = weight_name or wforeight_name
        self._adapter = path if name is None or path.is_file() else path / name
        self._forget()

    def __call__(
        self,
        prompt: str | list[str],
        num_images_per_prompt: int = 50,
        num_inference_steps: int = 50,
        generator: Any = None,
        guidance_scale: float = 7.5,
        return_dict: bool = True,
        noise: str | None = None,
        batch: int = 64,
    ) -> Any:
        """Draw a pool and select.

        Args:
            prompt: one text.
            num_images_per_prompt: size of the pool.
            num_inference_steps, guidance_scale: of the sampler.
            generator: the caller's random numbers.
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
        model = self._model()
        schedule = Schedule.from_diffusers(self.scheduler, num_inference_steps, self._solver())
        cond = model.encode_prompts([text])
        if kind == "torch":
            latents, terms = draw_pool(
                model,
                schedule,
                cond,
                model.encode_null(),
                count=num_images_per_prompt,
                guidance=guidance_scale,
                generator=generator,
                batch=batch,
            )
        else:
            pool = sorted(
                generate(
                    model,
                    [text],
                    candidates=num_images_per_prompt,
                    steps=num_inference_steps,
                    guidance=guidance_scale,
                    scheduler=schedule.name,
                    seed=0 if generator is None else generator.initial_seed() % 2**63,
                    slots=min(batch, num_images_per_prompt),
                    convention="mean" if self.FLOW else "reference",
                ),
                key=lambda candidate: candidate.index,
            )
            latents = torch.stack([candidate.latent for candidate in pool])
            terms = torch.stack([candidate.terms for candidate in pool])
        self.scores = self._score(terms.cpu(), schedule, guidance_scale)
        self.selected = best(self.scores, 1)[0]
        winner = latents[self.selected : self.selected + 1]
        made = Selected(
            prompt_embeds=cond[model.text_name],  # type: ignore[attr-defined]
            pooled_prompt_embeds=cond.get(model.pooled_name),  # type: ignore[attr-defined]
            latents=winner,
            images=as_pictures(model.decode(winner)),
        )
        return made if return_dict else tuple(made)

    def _score(self, terms: Tensor, schedule: Schedule, guidance: float) -> Tensor:
        if self.FLOW:
            return rfmi(terms, schedule, guidance).float()
        weights = schedule.weights("reference")
        return (terms[..., 0].double() @ weights).float()

    def _solver(self) -> str | None:
        """The scheduler's own class if the engine has its solver; else the paper's."""
        own = type(self.scheduler).__name__
        known = own.startswith("FlowMatch") or any(own.lower().startswith(s) for s in SOLVERS)
        return None if known else "ddpm"

    def _model(self) -> LatentModel:
        if self._made is not None and self._made[0] is not self.scheduler:
            self._forget()
        if self._made is None:
            self.pipeline.scheduler = self.scheduler
            device = None if self._device is None else str(pick_device(self._device))
            made = load(
                copy.copy(self.pipeline),
                device=device or "cpu",
                precision=self._precision,
                adapter=self._adapter,
            )
            self._made = self.scheduler, made
        return self._made[1]

    def _forget(self) -> None:
        """Take the adapter off the networks, which the next model shares."""
        if self._made is not None:
            adapter.detach(self._made[1])
            self._made = None


class MISelectionPipeline(_Selection):
    """Of pipeline_gen_mi_1phase.py: the authors' score, without alpha_t, over t > 50."""

    KIND = "StableDiffusionPipeline"


class MISelectionXLPipeline(_Selection):
    """The same for SDXL."""

    KIND = "StableDiffusionXLPipeline"


class StableDiffusion3Pipeline_MI(_Selection):
    """Of pipeline_gen_mi_1phase_sd3.py: RFMI's score (``mitune.scoring.rfmi``)."""

    KIND = "StableDiffusion3Pipeline"
    FLOW = True


def _precision(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    if name not in ("float32", "bfloat16", "float16", "float64"):
        raise UserError(f"torch_dtype is {dtype}: expected float32, bfloat16 or float16")
    return name
