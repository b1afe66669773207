"""A pipeline as the authors' classes load it, and the model that is made from it when it is
called."""

import copy
from pathlib import Path
from typing import Any, ClassVar

import torch

from mitune.adapters import adapter
from mitune.core.errors import UserError
from mitune.load import pick_device
from mitune.models.family import family_of
from mitune.models.loading import load_pipeline
from mitune.models.protocol import LatentModel
from mitune.models.verify import check_live, naming_model

_WITHOUT_EFFECT = (
    "use_safetensors",
    "safety_checker",
    "requires_safety_checker",
    "low_cpu_mem_usage",
    "local_files_only",
)
"""Options of diffusers that change no picture."""


class Loaded:
    """What the authors' classes share but the call.

    Attributes:
        pipeline: of diffusers; the model takes its networks over.
        scheduler: of the pipeline; another one may be assigned, as in diffusers.
    """

    KIND: ClassVar[str]
    """Class of the pipelines that it takes."""

    def __init__(self, pipeline: Any, name: str, precision: str) -> None:
        if type(pipeline).__name__ != self.KIND:
            raise UserError(
                f"model {name} is a {type(pipeline).__name__}: expected a {self.KIND} for "
                f"{type(self).__name__}"
            )
        self.pipeline, self._name, self._precision = pipeline, name, precision
        self.scheduler = pipeline.scheduler
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

    def _model(self, size: tuple[int | None, int | None]) -> LatentModel:
        wanted = self.scheduler, size
        if self._made is not None and self._made[0] != wanted:
            self._forget()
        if self._made is None:
            self.pipeline.scheduler = self.scheduler
            family = family_of(self._name, self.pipeline)
            with naming_model(self._name):
                check_live(self.pipeline)
            made = family.model(
                copy.copy(self.pipeline),
                self._name,
                device=pick_device(self._device or "cpu"),
                precision=self._precision,
                # Of the weights as they were loaded, before they change their precision.
                fingerprint=self._fingerprint,
            )
            self._fingerprint = made.fingerprint
            height, width = made.picture_size
            made.resize((size[0] or height, size[1] or width))
            if self._adapter is not None:
                adapter.load(made, self._adapter, fingerprint=made.fingerprint)
            self._made = wanted, made
        return self._made[1]

    def _forget(self) -> None:
        """Take the adapter off the networks, which the next model shares."""
        if self._made is not None:
            adapter.detach(self._made[1])
            self._made = None


def _precision(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    if name not in ("float32", "bfloat16", "float16", "float64"):
        raise UserError(f"torch_dtype is {dtype}: expected float32, bfloat16 or float16")
    return name
