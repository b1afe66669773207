"""What the models of all families share: a diffusers pipeline, used as a denoiser of latents."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from accelerate import cpu_offload  # type: ignore[import-untyped]
from torch import Tensor, nn

from mitune.config.preset import Preset
from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.core.identity import parts_of, weights_digest
from mitune.diffusion.process import Process
from mitune.diffusion.schedule import Schedule
from mitune.diffusion.solvers import size_shift
from mitune.models import autoencoder
from mitune.models.family import Family, foreign
from mitune.models.picture_size import PictureSize
from mitune.models.precision import PRECISIONS
from mitune.models.protocol import Conditioning, RuntimePasses
from mitune.models.texts import padded
from mitune.models.verify import check_weights, naming_model


class PipelineModel(PictureSize):
    """A loaded pipeline as a :class:`mitune.models.protocol.LatentModel`, which documents its
    attributes.

    A family derives from this class, names its networks, and adds ``call``, ``embed`` and, unless
    it has one tokenizer, ``tokenize``. If it differs from diffusers' AutoencoderKL, or its null
    conditioning is not the empty prompt, it also overrides ``decode``, ``encode_images`` and
    ``encode_null``.

    Args:
        pipeline: has all parts that the class names.
        name: shown to people.
        device: where the networks run.
        precision: of the denoiser.
        preset: the settings that the model uses unless others are given; None: its family's.
        fingerprint: pass it if it is known already, as hashing takes long.
        size: (height, width) of its pictures in pixels; None: that of the denoiser's config.
        offload: keep the text encoders in the CPU's memory; each of their layers comes to
            ``device`` only while it runs.
        as_it_is: leave every network in the dtype and on the device that it has.

    Raises:
        UserError: a pipeline of another family, or one that ``check`` refuses.
    """

    family: ClassVar[Family]
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer",)
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    """All text encoders, including those that cannot have an adapter."""
    tokens: ClassVar[int | None] = None
    """How many tokens of a prompt the family's pipeline reads at most; None: the tokenizer's."""
    text_name: ClassVar[str]
    """The name of the text's hidden states in the conditioning."""
    pooled_name: ClassVar[str | None] = None
    """The name of the pooled text there; None: there is none."""
    text_targets: Mapping[str, tuple[str, ...]] = {}
    export_prefixes: Mapping[str, Mapping[str, str]] = {}
    shard_blocks: tuple[type[nn.Module], ...] = ()
    offload = False

    def __init__(
        self,
        pipeline: Any,
        name: str,
        *,
        device: torch.device,
        precision: str,
        preset: Preset | None = None,
        fingerprint: str | None = None,
        size: tuple[int, int] | None = None,
        offload: bool = False,
        as_it_is: bool = False,
    ) -> None:
        if not self.family.holds(pipeline):
            raise foreign(name, pipeline)
        self.pipeline, self.name = pipeline, name
        self.world: str | None = None
        self.preset = preset or self.family.preset
        self.prepared = {}
        self.device, self.precision, self.offload = device, precision, offload
        self.dtype = PRECISIONS[precision]
        self.check(pipeline, name, self.dtype)
        trained = [getattr(pipeline, part) for part in (self.denoiser, *self.encoders)]
        # Hashed before the dtype changes, so that a model has the same fingerprint in every
        # precision.
        self.fingerprint = fingerprint or weights_digest(*(part for part in trained if part))
        self.scheduler = self.scheduler_of(pipeline)
        self.parts = parts_of(
            pipeline, self.denoiser, self.encoders, self.tokenizers, self.scheduler
        )
        self.networks = {}
        for part in (self.denoiser, *self.encoders, "vae"):
            network = getattr(pipeline, part)
            if network is None:
                continue
            if as_it_is:
                self.networks[part] = network
                continue
            # Only the denoiser runs in the chosen precision: text encoders run once per prompt and
            # people look at the VAE's pictures, so neither is worth a rounding error.
            dtype = self.dtype if part == self.denoiser else torch.float32
            if network.dtype != dtype:  # some diffusers networks warn about every conversion
                network.to(dtype=dtype)
            network.eval().requires_grad_(False)
            if offload and part in self.encoders:
                self.networks[part] = cpu_offload(network.to("cpu"), device)
            else:
                self.networks[part] = network.to(device)
        self.process: Process = Schedule.levels(self.scheduler).process
        self.latent_shape = self.shape_of_latents()
        if size is not None:
            self.resize(size)

    def check(self, pipeline: Any, name: str, dtype: torch.dtype) -> None:
        """Raise UserError, naming the model and the part, unless the parts make one model that
        ``dtype`` can hold. Here every part must be present and every weight usable; a family adds
        what makes its parts fit each other."""
        with naming_model(name):
            there = [p for p in self.family.components if getattr(pipeline, p, None) is not None]
            for part in self.family.components:
                if part not in there and part not in self.family.optional:
                    raise UserError(f"the {part} is missing: expected a whole pipeline")
            for part in self.family.networks:
                if part in there:
                    own = dtype if part == self.denoiser else torch.float32
                    check_weights(part, getattr(pipeline, part), own)

    def scheduler_of(self, pipeline: Any) -> Any:
        """The pipeline's scheduler; or one of the same noise levels for which the engine has a
        solver."""
        return pipeline.scheduler

    @property
    def passes(self) -> RuntimePasses:
        """No rewriting, unless a family overrides this."""
        return RuntimePasses()

    @property
    def prediction(self) -> str:
        """What the denoiser predicts: "epsilon", "v_prediction" or "velocity"."""
        return self.process.prediction

    @property
    def prompt_limit(self) -> int:
        """How many tokens of a prompt the model sees."""
        limit = int(self._widest().model_max_length)
        return limit if self.tokens is None else min(limit, self.tokens)

    def schedule(self, sampler: SamplerConfig, /) -> Schedule:
        """The table of the sampler's steps, as the family's pipeline takes them."""
        height, width = self.latent_shape[-2:]
        return Schedule.from_diffusers(
            self.scheduler,
            steps=sampler.steps,
            kind=sampler.scheduler,
            eta=sampler.eta,
            sigmas=self.flow_sigmas(sampler.steps),
            mu=self.flow_shift(height * width // self.patch**2, sampler.steps),
        )

    def flow_sigmas(self, steps: int) -> list[float] | None:
        """Of a flow: the times that the family's pipeline gives its scheduler; None: the
        scheduler's own."""
        return None

    def flow_shift(self, tokens: int, steps: int) -> float | None:
        """``mu`` of a flow whose times depend on the picture's number of tokens; None: they do
        not."""
        return size_shift(self.scheduler, tokens)

    @property
    def renormalise(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Guidance is classifier-free guidance as it is, unless a family overrides this."""
        return None

    def pipeline_with(self, networks: Mapping[str, Any]) -> Any:
        """A pipeline like the model's own, but with these networks."""
        parts = self.pipeline.components | dict(networks)
        return type(self.pipeline)(**parts, **self.family.options)

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """The family's call of ``network``; see ``mitune.models.protocol.LatentModel``."""
        raise NotImplementedError

    def tokenize(self, prompts: Sequence[str], /) -> dict[str, Tensor]:
        """The inputs of ``embed``, one row for each prompt. Here ``input_ids`` and
        ``attention_mask``, ``[N, tokens]`` int64 on the model's device."""
        tokenizer = self.pipeline.tokenizer
        length = self.tokens or tokenizer.model_max_length
        return padded(tokenizer, self.texts(prompts, tokenizer), length, self.device)

    def tokenize_null(self) -> dict[str, Tensor]:
        """The empty prompt's. A family with another ``encode_null`` marks its row here, for
        ``embed`` to know."""
        return self.tokenize([""])

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """Conditioning from the result of ``tokenize``; gradients reach the text encoders."""
        raise NotImplementedError

    def __call__(self, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """Prediction of the denoiser, like ``z``, in the model's dtype; see
        :class:`mitune.models.protocol.Denoiser`."""
        return self.call(self.networks[self.denoiser], z.to(self.dtype), t, cond)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str], /) -> dict[str, Tensor]:
        """Conditioning in the model's dtype, one row for each prompt.

        Prompts that are too long for a text encoder are cut as diffusers cuts them; ``too_long``
        returns these prompts.
        """
        return self.embed(self.tokenize(prompts))

    def encode_null(self) -> dict[str, Tensor]:
        """Conditioning of the empty prompt, one row."""
        return self.encode_prompts([""])

    def too_long(self, prompts: Sequence[str], /) -> list[str]:
        """The prompts of which the model would see only the beginning, as they are too long."""
        tokenizer, limit = self._widest(), self.prompt_limit
        lengths = [
            len(tokenizer(text, truncation=False).input_ids)
            for text in self.texts(prompts, tokenizer)
        ]
        return [p for p, length in zip(prompts, lengths, strict=True) if length > limit]

    def _widest(self) -> Any:
        """The tokenizer that takes the longest prompts."""
        found = (getattr(self.pipeline, name) for name in self.tokenizers)
        return max((each for each in found if each), key=lambda each: each.model_max_length)

    def decode(self, latents: Tensor, /) -> Tensor:
        """Decode latents to pictures.

        Args:
            latents: ``[N, C, H, W]`` float32, in the sampler's scale.

        Returns:
            ``[N, 3, h, w]`` float32 in [0, 1] on the CPU.
        """
        return autoencoder.decode(self.vae, latents.to(self.device), self.latent_scale)

    def encode_images(self, images: Tensor, /) -> Tensor:
        """Encode pictures ``[N, 3, h, w]`` in [0, 1] to latents ``[N, C, H, W]`` float32, the mode
        of the encoder's distribution."""
        return autoencoder.encode(self.vae, images.to(self.device))

    def texts(self, prompts: Sequence[str], tokenizer: Any) -> list[str]:
        """The prompts as ``tokenizer`` is given them: a textual inversion of several vectors is
        several tokens."""
        convert = getattr(self.pipeline, "maybe_convert_prompt", None)
        return list(prompts) if convert is None else list(convert(list(prompts), tokenizer))
