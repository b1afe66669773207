"""Stable Diffusion 3 and 3.5 against diffusers' own pipeline: text with and without T5, sampling,
training, files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from sd3_pipeline import sd3_pipeline
from tiny_parts import TEXTS, furthest, predict, with_lora

import mitune
from mitune.adapters import adapter
from mitune.adapters.export.whole_model import merge
from mitune.adapters.export.write import export_adapter
from mitune.config.pruning import PruneConfig
from mitune.core.errors import UserError
from mitune.diffusion.noise import candidate_keys, normal
from mitune.models.sd3 import PRESET
from mitune.models.sd3.model import POOLED, SD3, TEXT

STEPS, GUIDANCE = 5, 4.0
SAMPLER = replace(PRESET.sampler, steps=STEPS, guidance=GUIDANCE)
QUICK = mitune.BuildConfig(candidates=3, sampler=SAMPLER, runtime=mitune.Runtime(slots=4))
TRAINING = mitune.TuneConfig(
    rank=2, alpha=2, batch=4, micro_batch=2, iterations=3, lr=1e-2, t_range=(0, 1000)
)
KINDS = [pytest.param({}, id="3.5 medium"), pytest.param({"third": False}, id="without T5")]


def load(source: Any = None, **options: Any) -> SD3:
    return mitune.load(sd3_pipeline() if source is None else source, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_recognised_live_and_from_a_folder(tmp_path: Path, kind: dict[str, bool]) -> None:
    sd3_pipeline(**kind).save_pretrained(tmp_path)
    live, loaded = load(sd3_pipeline(**kind)), load(tmp_path)
    assert type(live) is type(loaded) is SD3
    assert (live.fingerprint, live.parts) == (loaded.fingerprint, loaded.parts)
    assert ("text_encoder_3" in live.networks) is kind.get("third", True)
    assert torch.equal(predict(live), predict(loaded))
    assert loaded.preset == PRESET
    assert loaded.picture_size == (32, 32)


def test_a_folder_may_leave_the_third_encoder_out(tmp_path: Path) -> None:
    """Not only as null, as diffusers writes it."""
    sd3_pipeline(third=False).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    for part in ("text_encoder_3", "tokenizer_3"):
        assert index.pop(part) == [None, None]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert torch.equal(predict(load(tmp_path)), predict(load(sd3_pipeline(third=False))))


@pytest.mark.parametrize("kind", KINDS)
def test_text_and_no_text_are_diffusers_own(kind: dict[str, bool]) -> None:
    theirs, model = sd3_pipeline(**kind), load(sd3_pipeline(**kind))
    text, null, pooled, null_pooled = theirs.encode_prompt(TEXTS, None, None)
    ours, empty = model.encode_prompts(TEXTS), model.encode_null()
    for made, name, expected in (
        (ours, TEXT, text),
        (ours, POOLED, pooled),
        (empty, TEXT, null[:1]),
        (empty, POOLED, null_pooled[:1]),
    ):
        assert made[name].shape == expected.shape
        assert furthest(made[name], expected) < 1e-5


def test_a_prompt_is_cut_where_the_longest_encoder_ends() -> None:
    with_t5, without = load(), load(sd3_pipeline(third=False))
    limit = without.prompt_limit
    assert with_t5.prompt_limit == 256 > limit
    between, beyond = " ".join(["red"] * 200), " ".join(["red"] * 300)
    assert with_t5.too_long([between, beyond]) == [beyond]
    assert without.too_long([between, beyond]) == [between, beyond]
    theirs = sd3_pipeline().encode_prompt([beyond], None, None)[0]
    assert furthest(with_t5.encode_prompts([beyond])[TEXT], theirs) < 1e-5


@torch.no_grad()
def test_rfmi_is_its_authors_loop(tmp_path: Path) -> None:
    """Their loop over the pipeline's parts: guided velocity, mean over 0.05 < t < 1."""
    model, theirs = load(), sd3_pipeline()
    config = replace(QUICK, estimator="rfmi", candidates=1)
    built = mitune.build_set(model, TEXTS[:1], tmp_path, config).table()
    key = candidate_keys([(0, TEXTS[0], 0)])
    z = normal(key, torch.zeros(1, dtype=torch.int64), model.latent_shape)
    text, null, pooled, null_pooled = theirs.encode_prompt(TEXTS[0], None, None)
    theirs.scheduler.set_timesteps(STEPS)
    found = []
    for t in theirs.scheduler.timesteps:
        v_c, v_u = (
            theirs.transformer(z, words, both, t.expand(1)).sample
            for words, both in ((text, pooled), (null, null_pooled))
        )
        guided = v_u + GUIDANCE * (v_c - v_u)
        level = float(t) / 1000
        if 0.05 < level < 1:
            found.append((1 - level) / level * float((guided * (guided - v_u)).sum()))
        z = theirs.scheduler.step(guided, t, z).prev_sample
    assert len(found) == STEPS - 2  # the first t is 1, and the last below 0.05
    expected = sum(found) / len(found)
    assert built["score"][0].as_py() == pytest.approx(expected, rel=1e-4)


def test_too_few_steps_for_a_score_are_one_line() -> None:
    """The first t is 1, where the weight is 0, and the other one below 0.05."""
    model = load()
    options = {"candidates": 1, "steps": 2, "convention": "mean"}
    with pytest.raises(UserError, match="steps is 2: none of them has a weight in the score"):
        list(mitune.generate(model, TEXTS, **options))
    assert len(list(mitune.generate(model, TEXTS, scored=False, **options))) == 2


def test_rfmi_is_refused_for_diffusion(tmp_path: Path, shapes_model: Any) -> None:
    with pytest.raises(UserError, match="estimator rfmi belongs to a flow"):
        mitune.build_set(shapes_model, TEXTS, tmp_path / "set", estimator="rfmi")
    assert not (tmp_path / "set").exists()


def test_pictures_are_decoded_and_encoded_as_the_pipeline_does() -> None:
    model = load()
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    vae = model.pipeline.vae
    shift, scale = vae.config.shift_factor, vae.config.scaling_factor
    theirs = vae.decode(z / scale + shift, return_dict=False)[0]
    pictures = model.decode(z)
    torch.testing.assert_close(pictures, (theirs / 2 + 0.5).clamp(0, 1))
    found = vae.encode(pictures * 2 - 1).latent_dist.mode()
    torch.testing.assert_close(model.encode_images(pictures), (found - shift) * scale)


@pytest.mark.parametrize("joint", [False, True], ids=["transformer", "both CLIP encoders too"])
def test_from_a_pool_to_an_adapter_that_diffusers_reads(tmp_path: Path, joint: bool) -> None:
    model = load()
    base = predict(model)
    pruned = replace(QUICK, prune=PruneConfig(policy="halving", rungs=((3, 2),)))
    built = mitune.build_set(model, TEXTS, tmp_path / "set", pruned)
    config = replace(TRAINING, text_encoder_lr=1e-2 if joint else None, caption_dropout=0.5)
    out = mitune.tune(model, built, tmp_path / "adapter", config)
    assert torch.equal(predict(model), base)
    scores = mitune.score(model, TEXTS, torch.stack([x for _, x in built.selected()]), draws=2)
    assert scores.isfinite().all()
    adapter.load(model, out)
    tuned = predict(model)
    assert furthest(tuned, base) > 1e-3
    adapter.detach(model)
    exported = export_adapter(model, out, tmp_path / "export", "diffusers")
    theirs = with_lora(sd3_pipeline(), exported.path)
    assert furthest(predict(load(theirs)), tuned) < 1e-5
    merged = merge(model, out, tmp_path / "merged")
    assert furthest(predict(load(merged)), tuned) < 1e-5
    assert StableDiffusion3Pipeline.from_pretrained(merged).text_encoder_3 is not None


def test_the_second_attention_of_a_layer_is_adapted_too(tmp_path: Path) -> None:
    model = load()
    adapter.attach(model, TRAINING)
    layers = {name.rsplit(".lora", 1)[0] for name in adapter.parameters(model)}
    assert any(".attn2.to_q" in name for name in layers)
    adapter.detach(model)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda p: p.transformer.register_to_config(joint_attention_dim=44),
            "the transformer takes text of width 44 and the text_encoder_3 makes 40",
        ),
        (
            lambda p: p.transformer.register_to_config(pooled_projection_dim=9),
            "the transformer takes a pooled text of width 9 and the two CLIP encoders make 32",
        ),
        (
            lambda p: p.transformer.register_to_config(in_channels=8),
            "the transformer takes 8 channels and makes 4",
        ),
        (
            lambda p: p.transformer.register_to_config(sample_size=64),
            "the transformer's sample_size is 64, 32 patches, and it has places for 8",
        ),
        (
            lambda p: setattr(p, "text_encoder_3", None),
            "the tokenizer_3 is there without the text_encoder_3",
        ),
        (lambda p: setattr(p, "text_encoder", None), "the text_encoder is missing"),
        (
            lambda p: p.text_encoder_3.shared.weight.data.fill_(torch.nan),
            "the text_encoder_3's weight .* is not finite",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: Any, words: str) -> None:
    pipeline = sd3_pipeline()
    change(pipeline)
    with pytest.raises(UserError, match=f"model StableDiffusion3Pipeline: {words}"):
        load(pipeline)
