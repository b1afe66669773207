"""Stable Diffusion XL against diffusers' own pipeline: text, sizes, the empty prompt, sampling,
training, files."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file
from sdxl_pipeline import sdxl_pipeline
from tiny_parts import TEXTS, furthest, predict, with_lora

import mitune
from mitune.adapters import adapter
from mitune.adapters.export.whole_model import merge
from mitune.adapters.export.write import export_adapter
from mitune.core.errors import UserError
from mitune.models.sdxl.model import POOLED, SDXL, SIZES, TEXT
from mitune.runtime.prepared import Prepared

STEPS, GUIDANCE = 5, 4.0
QUICK = mitune.BuildConfig(
    candidates=3,
    sampler=mitune.SamplerConfig(steps=STEPS, guidance=GUIDANCE, scheduler="euler"),
    runtime=mitune.Runtime(slots=4),
)
TRAINING = mitune.TuneConfig(rank=2, alpha=2, batch=4, micro_batch=2, iterations=3, lr=1e-2)


def load(source: Any = None, **options: Any) -> SDXL:
    return mitune.load(sdxl_pipeline() if source is None else source, **options)


def test_it_is_recognised_live_and_from_a_folder(tmp_path: Path) -> None:
    sdxl_pipeline().save_pretrained(tmp_path)
    live, loaded = load(), load(tmp_path)
    assert type(live) is type(loaded) is SDXL
    assert live.fingerprint == loaded.fingerprint
    assert live.parts["no_prompt"] == loaded.parts["no_prompt"] == {"zeros": True}
    assert torch.equal(predict(live), predict(loaded))
    assert loaded.picture_size == (64, 64)


@pytest.mark.parametrize("zeros", [True, False])
def test_text_and_no_text_are_diffusers_own(zeros: bool) -> None:
    theirs = sdxl_pipeline(force_zeros_for_empty_prompt=zeros)
    model = load(sdxl_pipeline(force_zeros_for_empty_prompt=zeros))
    text, null, pooled, null_pooled = theirs.encode_prompt(TEXTS)
    ours, empty = model.encode_prompts(TEXTS), model.encode_null()
    assert torch.equal(ours[TEXT], text)
    assert torch.equal(ours[POOLED], pooled)
    torch.testing.assert_close(empty[TEXT], null[:1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(empty[POOLED], null_pooled[:1], rtol=1e-4, atol=1e-4)
    assert bool(empty[TEXT].any()) is not zeros
    sizes = theirs._get_add_time_ids((64, 64), (0, 0), (64, 64), torch.float32, 16)
    assert torch.equal(ours[SIZES], sizes.expand(2, 6))


def test_decoded_pictures_are_the_pipelines() -> None:
    model = load()
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    theirs = model.pipeline.vae.decode(z / 0.13025, return_dict=False)[0]
    torch.testing.assert_close(model.decode(z), (theirs / 2 + 0.5).clamp(0, 1))


def test_pairs_predict_what_all_rows_do() -> None:
    """Projections are shared; no prefix is, as the pooled text is in every block."""
    model = load(precision="float64")
    made = Prepared(model)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([900.0, 200.0])
    rows = [{n: x.expand(2, *x.shape[1:]) for n, x in model.encode_null().items()}]
    rows.append(model.encode_prompts(TEXTS))
    with torch.no_grad():
        expected = torch.cat([model(z, t, cond) for cond in rows])
        null = {n: x.expand(2, *x.shape[1:]) for n, x in made.encode_null().items()}
        text = made.encode_prompts(TEXTS)
        got = made.pairs(z, t, {n: torch.cat([null[n], text[n]]) for n in text})
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("joint", [False, True], ids=["unet", "both text encoders too"])
def test_from_a_pool_to_an_adapter_that_diffusers_reads(tmp_path: Path, joint: bool) -> None:
    model = load()
    base = predict(model)
    built = mitune.build_set(model, TEXTS, tmp_path / "set", QUICK)
    config = replace(TRAINING, text_encoder_lr=1e-2 if joint else None, caption_dropout=0.5)
    out = mitune.tune(model, built, tmp_path / "adapter", config)
    assert torch.equal(predict(model), base)
    adapter.load(model, out)
    tuned = predict(model)
    assert furthest(tuned, base) > 1e-3
    assert not model.encode_null()[TEXT].any()
    adapter.detach(model)
    theirs = with_lora(sdxl_pipeline(), out)
    assert furthest(predict(load(theirs)), tuned) < 1e-5
    merged = merge(model, out, tmp_path / "merged")
    assert furthest(predict(load(merged)), tuned) < 1e-5
    plain = StableDiffusionXLPipeline.from_pretrained(merged)
    assert plain.config.force_zeros_for_empty_prompt is True


def test_a_pool_is_pruned(tmp_path: Path) -> None:
    pruned = replace(QUICK, prune=mitune.PruneConfig(policy="halving", rungs=((3, 2),), audit=0.0))
    built = mitune.build_set(load(), TEXTS, tmp_path, pruned).table()
    assert sorted(built["pruned"].to_pylist()) == [False] * 4 + [True] * 2


def test_a_kohya_file_is_what_diffusers_reads_of_it(tmp_path: Path) -> None:
    """Of a LoRA, which that form holds exactly, on the UNet and both text encoders."""
    model = load()
    built = mitune.build_set(model, TEXTS, tmp_path / "set", QUICK)
    config = replace(TRAINING, method="lora", text_encoder_lr=1e-2)
    out = mitune.tune(model, built, tmp_path / "adapter", config)
    for form in ("kohya", "comfyui"):
        made = export_adapter(model, out, tmp_path / form, form)
        names = load_file(made.file)
        assert any(name.startswith("lora_unet_down_blocks_1_attentions_0_") for name in names)
        for encoder in ("lora_te1_text_model_encoder_layers_0", "lora_te2_text_model_encoder"):
            assert any(name.startswith(encoder) for name in names)
    adapter.load(model, out)
    tuned = predict(model)
    theirs = with_lora(sdxl_pipeline(), tmp_path / "kohya" / "kohya.safetensors")
    assert furthest(predict(load(theirs)), tuned) < 1e-5


def test_parts_that_do_not_fit_are_refused() -> None:
    def refused(change: Any, words: str) -> None:
        pipeline = sdxl_pipeline()
        change(pipeline)
        with pytest.raises(UserError, match=words):
            load(pipeline)

    unet = "model StableDiffusionXLPipeline: the unet"
    refused(lambda p: p.unet.register_to_config(addition_embed_type="text"), unet)
    refused(lambda p: p.unet.register_to_config(cross_attention_dim=16), f"{unet} takes text")
    refused(
        lambda p: p.unet.register_to_config(projection_class_embeddings_input_dim=36),
        "takes 36 numbers, .* makes 40",
    )
    refused(lambda p: p.unet.register_to_config(in_channels=9), "takes 9 channels")

    def spoil(pipeline: Any) -> None:
        pipeline.tokenizer_2 = copy.deepcopy(pipeline.tokenizer_2)
        pipeline.tokenizer_2.model_max_length = 99

    refused(spoil, "the tokenizer_2's model_max_length is 99")
