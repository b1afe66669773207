"""Text encoders that are in the GPU's memory only while they run. A CPU shows the same, as
accelerate leaves weights without memory where they are not in use."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sd3_pipeline import sd3_pipeline
from tiny_parts import TEXTS, predict

import mitune
from mitune.adapters.export.whole_model import merge
from mitune.core.errors import UserError
from mitune.models.protocol import denoiser_of

TRAINING = mitune.TuneConfig(rank=2, alpha=2, batch=2, micro_batch=1, iterations=2)


def offloaded() -> Any:
    return mitune.load(sd3_pipeline(), offload=True)


def test_the_same_comes_out_and_only_the_denoiser_s_weights_are_there(tmp_path: Path) -> None:
    runs = []
    for offload in (False, True):
        model = mitune.load(sd3_pipeline(), offload=offload)
        seen = []

        def look(*_: Any, model: Any = model, seen: list[bool] = seen) -> None:
            encoders = [model.networks[name] for name in model.encoders]
            seen.append(any(not p.is_meta for e in encoders for p in e.parameters()))

        denoiser_of(model).register_forward_pre_hook(look)
        out = tmp_path / str(offload)
        built = mitune.build_set(model, TEXTS, out / "set", candidates=2, steps=3, slots=2)
        mitune.tune(model, built, out / "adapter", TRAINING)
        assert seen
        assert any(seen) != offload
        files = sorted((out / "adapter").glob("*.safetensors"))
        runs.append((model.fingerprint, built.selected(), files))
    one, other = runs
    assert one[0] == other[0]
    assert one[2]
    assert all(torch.equal(a[1], b[1]) for a, b in zip(one[1], other[1], strict=True))
    assert [p.read_bytes() for p in one[2]] == [p.read_bytes() for p in other[2]]


def test_conditioning_is_the_same_at_every_call() -> None:
    model, plain = offloaded(), mitune.load(sd3_pipeline())
    for _ in range(2):
        assert torch.equal(predict(model), predict(plain))


def test_what_needs_the_encoders_weights_is_refused(tmp_path: Path) -> None:
    model, plain = offloaded(), mitune.load(sd3_pipeline())
    built = mitune.build_set(plain, TEXTS, tmp_path / "set", candidates=2, steps=3)
    joint = {"text_encoder_lr": 1e-3}
    with pytest.raises(UserError, match=r"text_encoder_lr .* the text encoders are offloaded"):
        mitune.tune(model, built, tmp_path / "a", TRAINING, **joint)
    out = mitune.tune(plain, built, tmp_path / "b", TRAINING, **joint)
    with pytest.raises(UserError, match=r"which is offloaded: .* leave offload out"):
        mitune.load(sd3_pipeline(), offload=True, adapter=out)
    with pytest.raises(UserError, match="expected a model that was loaded without offload"):
        merge(model, out, tmp_path / "merged")
