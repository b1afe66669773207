"""The authors' pipelines: many pictures of a prompt, of which the one with the highest mutual
information is returned."""

import copy
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from mitune.adapters import adapter
from mitune.compat.loop import draw_pool
from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.core.images import as_pictures
from mitune.core.prompts import check_prompts
from mitune.diffusion.schedule import SOLVERS, Schedule
from mitune.engine.policies import best
from mitune.engine.stream import generate
from mitune.load import pick_device
from mitune.models.family import family_of
from mitune.models.loading import load_pipeline
from mitune.models.protocol import LatentModel
from mitune.models.verify import check_live, naming_model
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
    STEPS: ClassVar[int] = 50
    GUIDANCE: ClassVar[float] = 7.5
    """Of a call that does not give them, as in the authors' classes."""

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
        self._fingerprint: str | None = None
        self._made: tuple[Any, LatentModel] | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        torch_dtype: torch.dtype = torch.float32,
        variant: str | None = None,
        **options: Any,
    ) -> Any:
        """Load a folder or a hub name.

        Args:
            pretrained_model_name_or_path: as in diffusers.
            torch_dtype: of the denoiser; latents and scores are float32.
            variant: of the weights, such as "fp16".
            options: parts of the pipeline in the place of its own, such as ``scheduler=`` or
                ``text_encoder_3=None``; and options of diffusers that change no picture:
                ``use_safetensors``, ``safety_checker``, ``requires_safety_checker``,
                ``low_cpu_mem_usage``, ``local_files_only``.

        Raises:
            UserError: as ``mitune.load``; or an option that is not known.
        """
        _, pipeline = load_pipeline(str(pretrained_model_name_or_path), variant)
        for name, part in options.items():
            if name in pipeline.components:
                pipeline.register_modules(**{name: part})
            elif name not in _WITHOUT_EFFECT:
                raise UserError(
                    f"from_pretrained was given {name}: expected torch_dtype, variant, or a part "
                    f"of the pipeline ({', '.join(sorted(pipeline.components))})"
                )
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
        if not isinstance(pretrained_model_name_or_path_or_dict, (str, Path)):
            kind = type(pretrained_model_name_or_path_or_dict).__name__
            raise UserError(f"load_lora_weights was given a {kind}: expected a folder or a file")
        path = Path(pretrained_model_name_or_path_or_dict)
        name = weight_name or wforeight_name
        self._adapter = path if name is None or path.is_file() else path / name
        self._forget()

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
            convention="mean" if self.FLOW else "reference",
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
        if self.FLOW:
            return rfmi(terms, schedule, guidance).float()
        weights = schedule.weights("reference")
        if schedule.process.prediction == "v_prediction":
            # The authors' code takes the difference of whatever is predicted for that of the noise.
            weights = weights / schedule.process.levels(schedule.timesteps.long())[0].square()
        return (terms[..., 0].double() @ weights).float()

    def _solver(self) -> Any:
        """The scheduler's own class if the engine has its solver; else the paper's."""
        own = type(self.scheduler).__name__
        if self.FLOW:
            return "euler"
        return next((name for name, kind in SOLVERS.items() if kind == own), "ddpm")

    def _model(self, size: tuple[int | None, int | None]) -> LatentModel:
        wanted = self.scheduler, size
        if self._made is not None and self._made[0] != wanted:
            self._forget()
        if self._made is None:
            self.pipeline.scheduler = self.scheduler
            family = family_of(self._name, self.pipeline)
            with naming_model(self._name):
                check_live(self.pipeline)

            def model(size: tuple[int, int] | None) -> LatentModel:
                made: LatentModel = family.model(
                    copy.copy(self.pipeline),
                    self._name,
                    device=pick_device(self._device or "cpu"),
                    precision=self._precision,
                    # Of the weights as they were loaded, before they change their precision.
                    fingerprint=self._fingerprint,
                    size=size,
                )
                self._fingerprint = made.fingerprint
                return made

            made = model(None)
            if size != (None, None):
                height, width = made.picture_size
                made = model((size[0] or height, size[1] or width))
            if self._adapter is not None:
                adapter.load(made, self._adapter, fingerprint=made.fingerprint)
            self._made = wanted, made
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
    GUIDANCE = 5.0


class StableDiffusion3Pipeline_MI(_Selection):
    """Of pipeline_gen_mi_1phase_sd3.py: RFMI's score (``mitune.scoring.rfmi``)."""

    KIND = "StableDiffusion3Pipeline"
    FLOW = True
    STEPS = 28
    GUIDANCE = 7.0


_WITHOUT_EFFECT = (
    "use_safetensors",
    "safety_checker",
    "requires_safety_checker",
    "low_cpu_mem_usage",
    "local_files_only",
)


def _check_generator(generator: Any, noise: str, count: int) -> None:
    many = isinstance(generator, (list, tuple))
    if generator is not None and not many and not isinstance(generator, torch.Generator):
        kind = type(generator).__name__
        raise UserError(f"generator is a {kind}: expected a torch.Generator, or a list of them")
    if many and noise == "keyed":
        raise UserError("generator is a list and noise keyed: expected one torch.Generator")
    if many and len(generator) != count:
        raise UserError(f"there are {len(generator)} generators: expected {count}, one a picture")


def _precision(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    if name not in ("float32", "bfloat16", "float16", "float64"):
        raise UserError(f"torch_dtype is {dtype}: expected float32, bfloat16 or float16")
    return name
