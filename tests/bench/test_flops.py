"""The arithmetic of a pass."""

import torch
from tiny_model import TinyModel

from mitune.bench.flops import denoiser_flops, peak_flops
from mitune.models.stable_diffusion.model import TEXT
from mitune.models.stable_diffusion.random_weights import sd21_base_unet


def test_stable_diffusion_2_1_base_takes_0_804_teraflop(monkeypatch):
    """The architecture's own configuration, without weights; the figure is the field's."""
    with torch.device("meta"):
        unet = sd21_base_unet()
    assert sum(p.numel() for p in unet.parameters()) == 865_910_724
    model = TinyModel()
    model.unet, model.latent_shape = unet, (4, 64, 64)
    monkeypatch.setattr(model, "encode_null", lambda: {TEXT: torch.empty(1, 77, 1024)})
    flops = denoiser_flops(model)
    assert round(flops / 1e12, 3) == 0.804


def test_a_processor_has_no_known_peak():
    assert peak_flops(torch.device("cpu")) is None
