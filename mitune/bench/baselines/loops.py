"""Set construction as in the authors' public code, re-implemented, and the same loop as one would
write it today.

Both process one prompt after the other, with its whole pool in one batch and diffusers' own
scheduler object. Only the noise is ours, so that their choices can be compared with ours: the
scheduler's draw of normals is replaced by the candidates' keyed noise, which costs no more.
"""

import gc
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import mitune_kernels
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers import scheduling_ddpm
from torch import Tensor

from mitune.diffusion.noise import candidate_keys
from mitune.diffusion.solvers import squared_signal
from mitune.models.protocol import Conditioning, LatentModel, concat, denoiser_of
from mitune.runtime.convolutions import tried_convolutions


class Pool(NamedTuple):
    """One prompt's candidates."""

    scores: Tensor
    """``[M]`` float32 on the CPU, nats, by the authors' convention (no alpha_t, t > 50)."""
    latents: Tensor
    """``[M, C, H, W]``."""


class AuthorsLoop:
    """gen_imgs_save_best_1phase.py and pipeline_gen_mi_1phase.py of github.com/Chao0511/mitune, as
    they are: float32, the weights as a list of a thousand tensors on the device, and in each step
    two copies to the host, a garbage collection and an emptied CUDA cache."""

    def __init__(
        self, model: LatentModel, *, candidates: int, steps: int, guidance: float, seed: int
    ) -> None:
        self.model = model
        self.candidates = candidates
        self.guidance = guidance
        self.seed = seed
        self.scheduler = DDPMScheduler.from_config(model.scheduler.config)
        self.scheduler.set_timesteps(steps, device=model.device)
        abar = squared_signal(self.scheduler).float().to(model.device)
        beta = self.scheduler.betas.to(model.device)
        total = len(beta)
        self.weights = [beta[t] * total / (2 * (1 - abar[t])) for t in range(total)]

    @torch.no_grad()
    def __call__(self, prompt: str, steps: int | None = None) -> Pool:
        """Generate the pool of ``prompt``; with ``steps``, take only its first steps."""
        model = self.model
        rows = [model.encode_null()] * self.candidates
        rows += [model.encode_prompts([prompt])] * self.candidates
        with _own_noise(prompt, self.candidates, self.seed, model) as latents:
            return self._denoise(latents, concat(rows), self.scheduler.timesteps[:steps])

    def _denoise(self, latents: Tensor, cond: Conditioning, timesteps: Tensor) -> Pool:
        weighted = []
        for t in timesteps:
            both = self.scheduler.scale_model_input(torch.cat([latents] * 2), t)
            predicted = self.model.call(denoiser_of(self.model), both, t, cond)
            uncond, text = predicted.chunk(2)
            if t > 50:
                error = (uncond - text).pow(2).sum(dim=(1, 2, 3))
                weighted.append(self.weights[t].cpu() * error.detach().cpu())
            guided = uncond + self.guidance * (text - uncond)
            latents = self.scheduler.step(guided, t, latents).prev_sample
            del both, predicted, uncond, text, guided
            gc.collect()
            if latents.is_cuda:
                torch.cuda.empty_cache()
        return Pool(torch.stack(weighted).mean(0), latents)


class FairLoop(AuthorsLoop):
    """The same loop without its obvious inefficiencies: the model compiled, in the precision in
    which it was loaded (for example bfloat16), cuDNN's benchmark mode, attention by SDPA, scores
    that stay on the device, no garbage collection and no emptied cache."""

    def __init__(
        self, model: LatentModel, *, candidates: int, steps: int, guidance: float, seed: int
    ) -> None:
        super().__init__(model, candidates=candidates, steps=steps, guidance=guidance, seed=seed)
        compiled = torch.compile(denoiser_of(model), fullgraph=True, dynamic=False)
        self.compiled: Callable[..., Any] = compiled
        # Keep everything that the scheduler looks up on the host, so that no step synchronizes.
        self.scheduler.set_timesteps(steps)

    @tried_convolutions()
    def _denoise(self, latents: Tensor, cond: Conditioning, timesteps: Tensor) -> Pool:
        score = torch.zeros(self.candidates, device=latents.device)
        counted = int((timesteps > 50).sum())
        on_device = torch.arange(len(self.weights), device=latents.device)
        for t in timesteps.tolist():
            both = torch.cat([latents] * 2).to(self.model.dtype)
            predicted = self.model.call(self.compiled, both, on_device[t], cond).float()
            uncond, text = predicted.chunk(2)
            difference = text - uncond
            if t > 50:
                score += self.weights[t] * difference.square().sum(dim=(1, 2, 3))
            latents = self.scheduler.step(
                uncond + self.guidance * difference, t, latents
            ).prev_sample
        return Pool((score / counted).cpu(), latents)


class _own_noise:
    """A context in which diffusers' scheduler draws the keyed noise of these candidates; yields the
    initial latents."""

    def __init__(self, prompt: str, candidates: int, seed: int, model: LatentModel) -> None:
        keys = [(seed, prompt, index) for index in range(candidates)]
        self._key = candidate_keys(keys).to(model.device)
        self._shape = model.latent_shape
        self._step = -1
        self._patch = mock.patch.object(scheduling_ddpm, "randn_tensor", self._draw)

    def _draw(self, *_: Any, **__: Any) -> Tensor:
        self._step += 1
        step = torch.full((len(self._key),), self._step, device=self._key.device)
        return mitune_kernels.normal(self._key, step, self._shape)

    def __enter__(self) -> Tensor:
        first = self._draw()
        self._patch.start()
        return first

    def __exit__(self, *_: object) -> None:
        self._patch.stop()
