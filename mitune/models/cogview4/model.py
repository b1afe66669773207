"""CogView4 as a denoiser: a transformer over the tokens of the text and of the picture, conditioned
on a language model's states of the prompt and on the picture's size; rectified flow, whose times
the transformer is given without their shift."""

from collections.abc import Mapping, Sequence
from math import exp, sqrt
from typing import Any

import numpy as np
import torch
from diffusers.models.transformers.transformer_cogview4 import CogView4TransformerBlock
from torch import Tensor
from torch.nn import functional as F

from mitune.core.errors import UserError
from mitune.models.cogview4 import FAMILY
from mitune.models.pipeline_model import PipelineModel
from mitune.models.protocol import Conditioning, RuntimePasses
from mitune.models.verify import check_pictures, check_transformer, naming_model

TEXT, LENGTH = "text", "length"
"""The conditioning: ``[N, L, D]``, zeros after the text, and ``[N]`` int64, its tokens."""
TOKENS = 1024
"""Of a prompt, as many as the pipeline gives the encoder by default; L."""
_MULTIPLE = 16
"""Of which the length of a text is one: padding comes before it, and is seen as text is."""
_OTHER_SPACINGS = (
    "shift_terminal",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
)
"""Options of the scheduler that change its times in another way than the shift."""


class CogView4(PipelineModel):
    """A CogView4Pipeline as a :class:`mitune.models.protocol.LatentModel`.

    Each text has the length that it has when the pipeline draws its prompt alone: of a list, the
    pipeline pads every text to the longest, so that a picture depends on the other prompts.

    Raises:
        UserError: a pipeline of another family; parts that do not fit each other; weights that are
            not finite.
    """

    family = FAMILY
    denoiser = "transformer"
    tokens = TOKENS
    text_name = TEXT
    shard_blocks = (CogView4TransformerBlock,)

    def check(self, pipeline: Any, name: str, dtype: torch.dtype) -> None:
        super().check(pipeline, name, dtype)
        network, encoder = pipeline.transformer.config, pipeline.text_encoder.config
        vae, levels = pipeline.vae.config, pipeline.scheduler.config
        with naming_model(name):
            check_pictures(vae)
            if shift := vae.get("shift_factor"):
                raise UserError(
                    f"the vae's shift_factor is {shift!r}: expected 0 or null, as this family "
                    "scales its latents by scaling_factor alone"
                )
            check_transformer(
                network, vae.latent_channels, network.text_embed_dim, encoder.hidden_size
            )
            for option in _OTHER_SPACINGS:
                if levels.get(option):
                    raise UserError(
                        f"the scheduler's {option} is {levels[option]!r}: expected none, as the "
                        "transformer's times are those before the shift"
                    )

    @property
    def passes(self) -> RuntimePasses:
        """Texts keep their own length: nothing is compiled for one shape."""
        return RuntimePasses(fixed_shapes=False)

    def flow_sigmas(self, steps: int) -> list[float]:
        """Evenly from 1 to 0.001, in whole thousandths."""
        total = self.scheduler.config.num_train_timesteps
        return [int(t) / total for t in np.linspace(total, 1.0, steps)]

    def flow_shift(self, tokens: int, steps: int) -> float | None:
        """It grows with the picture's side."""
        config = self.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return None
        side = sqrt(tokens / config.get("base_image_seq_len", 256))
        return float(side * config.get("max_shift", 0.75) + config.get("base_shift", 0.25))

    def _unshifted(self, t: Tensor, tokens: int) -> Tensor:
        """The time before the scheduler's shift, ``t = f s / (1 + (f - 1) s)`` solved for s, both
        in 0 to 1000: the pipeline gives the transformer this one, and steps by the other."""
        config, shift = self.scheduler.config, self.flow_shift(tokens, 1)
        if shift is None:
            factor = float(config.shift)
        else:
            factor = shift if config.time_shift_type == "linear" else exp(shift)
        noise = t.double() / 1000
        return (1000 * noise / (factor + (1 - factor) * noise)).to(t.dtype)

    def call(self, network: Any, z: Tensor, t: Tensor, cond: Conditioning, /) -> Tensor:
        """One call for all rows whose texts are of the same length."""
        height, width = z.shape[-2:]
        size = z.new_tensor([[height, width]], dtype=torch.float32) * self.latent_scale
        times = self._unshifted(t, height * width // self.patch**2)
        order, parts = [], []
        for length in sorted(set(cond[LENGTH].tolist())):
            rows = (cond[LENGTH] == length).nonzero().flatten()
            sizes = size.expand(len(rows), 2)
            made = network(
                z[rows],
                encoder_hidden_states=cond[TEXT][rows, :length],
                timestep=times[rows],
                original_size=sizes,
                target_size=sizes,
                crop_coords=torch.zeros_like(sizes),
                return_dict=False,
            )
            order.append(rows)
            parts.append(made[0])
        return torch.cat(parts)[torch.cat(order).argsort()]

    def tokenize(self, prompts: Sequence[str], /) -> dict[str, Tensor]:
        """``input_ids``, ``[N, L]`` int64 on the model's device: each text after its padding, and
        nothing that counts after it; and ``length``, as in the conditioning."""
        tokenizer, rows, lengths = self.pipeline.tokenizer, [], []
        padding = tokenizer.pad_token_id
        for prompt in prompts:
            ids = tokenizer(prompt, max_length=TOKENS, truncation=True).input_ids
            before = -len(ids) % _MULTIPLE
            lengths.append(before + len(ids))
            rows.append([padding] * before + ids + [padding] * (TOKENS - lengths[-1]))
        return {
            "input_ids": torch.tensor(rows, device=self.device),
            LENGTH: torch.tensor(lengths, device=self.device),
        }

    def embed(self, tokens: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """The states before the language model's last layer. It is causal, so what comes after a
        text changes none of that text's states."""
        longest = int(tokens[LENGTH].max())
        made = self.networks["text_encoder"](
            tokens["input_ids"][:, :longest], output_hidden_states=True
        )
        after = torch.arange(longest, device=self.device) >= tokens[LENGTH][:, None]
        states = made.hidden_states[-2].masked_fill(after[..., None], 0.0)
        return {
            TEXT: F.pad(states, (0, 0, 0, TOKENS - longest)).to(self.dtype),
            LENGTH: tokens[LENGTH],
        }
