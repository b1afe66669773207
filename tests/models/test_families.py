"""What every family has to do that has no module of its own here, against diffusers' pipelines."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from comfyui_arithmetic import patched
from diffusers import DPMSolverMultistepScheduler, SanaPipeline
from family_cases import (
    CASES,
    GUIDANCE,
    OTHERS,
    STEPS,
    TRAINING,
    Case,
    check_drawing,
    check_float64,
    check_gradient,
    draw,
    drawn_by_pipeline,
    quick,
)
from safetensors.torch import load_file
from sana_pipeline import sana_pipeline
from tiny_parts import TEXTS, furthest, predict

import mitune
from mitune.adapters import adapter
from mitune.adapters.export.whole_model import merge
from mitune.adapters.export.write import export_adapter
from mitune.core.errors import UserError
from mitune.evaluation.report import compare_adapter
from mitune.models.protocol import denoiser_of

EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
ALL = pytest.mark.parametrize("case", [*CASES.values(), *OTHERS.values()], ids=[*CASES, *OTHERS])


@EVERY
def test_it_is_recognised_live_and_from_a_folder(tmp_path: Path, case: Case) -> None:
    case.pipeline().save_pretrained(tmp_path)
    live, loaded = case.load(), case.load(tmp_path)
    assert type(live) is type(loaded)
    assert (live.fingerprint, live.parts) == (loaded.fingerprint, loaded.parts)
    assert torch.equal(predict(live), predict(loaded))


@ALL
def test_the_engine_draws_what_the_pipeline_does(case: Case) -> None:
    check_drawing(case, "eager")


@ALL
def test_in_float64_it_is_the_pipeline_to_the_last_digits(case: Case) -> None:
    if case.exact is None:
        pytest.skip("the pipeline itself gives NaN in float64")
    check_float64(case)


@ALL
def test_the_pictures_are_the_pipeline_s(case: Case) -> None:
    model = case.load()
    made = draw(case, model)
    pictures = model.decode(torch.stack([c.latent for c in made]))
    theirs = drawn_by_pipeline(case, model, made, "pt")
    assert pictures.std() > 0.01  # not all clamped
    assert float((pictures - theirs).abs().max()) < 1e-3


@EVERY
def test_from_a_pool_to_an_adapter_that_diffusers_reads(tmp_path: Path, case: Case) -> None:
    model = case.load()
    base = predict(model)
    built = mitune.build_set(model, TEXTS, tmp_path / "set", quick(model, case))
    out = mitune.tune(model, built, tmp_path / "adapter", TRAINING)
    assert torch.equal(predict(model), base)
    scores = mitune.score(model, TEXTS, torch.stack([x for _, x in built.selected()]), draws=2)
    assert scores.isfinite().all()
    adapter.load(model, out)
    tuned = predict(model)
    assert furthest(tuned, base) > 1e-3
    adapter.detach(model)
    exported = export_adapter(model, out, tmp_path / "export", "diffusers")
    loads = hasattr(model.pipeline, "load_lora_weights")
    assert ("no `load_lora_weights`" in (exported.path / "README.md").read_text()) != loads
    theirs = case.with_lora(case.pipeline(), exported.path)
    assert furthest(predict(case.load(theirs)), tuned) < 1e-5
    assert furthest(predict(case.load(merge(model, out, tmp_path / "merged"))), tuned) < 1e-5


@pytest.mark.parametrize("name", ["SD3", "FLUX.1-dev", "Chroma"])
def test_comfyui_finds_the_layers_and_makes_the_merged_weights(tmp_path: Path, name: str) -> None:
    """By diffusers' names of the transformer, every dot an underscore (comfy/lora.py)."""
    case = (CASES | OTHERS)[name]
    model = case.load()
    built = mitune.build_set(model, TEXTS, tmp_path / "set", quick(model, case))
    out = mitune.tune(model, built, tmp_path / "adapter", TRAINING)
    file = load_file(export_adapter(model, out, tmp_path / "mine", "comfyui").file)
    merged = case.load(merge(model, out, tmp_path / "merged")).networks["transformer"]
    base = model.networks["transformer"]
    keys = {f"lora_transformer_{n.replace('.', '_')}": n for n, _ in base.named_modules()}
    found = {key.partition(".")[0] for key in file}
    assert found <= keys.keys()
    ends = TRAINING.targets
    assert {keys[key] for key in found} == {n for n in keys.values() if n.endswith(ends)}
    for key in found:
        weight, expected = (
            n.get_submodule(keys[key]).weight.detach().double() for n in (base, merged)
        )
        assert furthest(patched(weight, file, key), expected) < 1e-6
        assert furthest(weight, expected) > 1e-3


@EVERY
def test_a_pool_is_pruned(tmp_path: Path, case: Case) -> None:
    model = case.load()
    halving = mitune.PruneConfig(policy="halving", rungs=((3, 2),), audit=0.0)
    built = mitune.build_set(model, TEXTS, tmp_path, replace(quick(model, case), prune=halving))
    assert sorted(built.table()["pruned"].to_pylist()) == [False] * 4 + [True] * 2


@ALL
def test_base_and_adapter_are_compared_and_all_weights_train(tmp_path: Path, case: Case) -> None:
    model = case.load()
    built = mitune.build_set(model, TEXTS, tmp_path / "set", quick(model, case))
    out = mitune.tune(model, built, tmp_path / "adapter", TRAINING)
    table = compare_adapter(
        model, out, TEXTS, out=tmp_path, images=1, seeds=[0], steps=4, guidance=GUIDANCE
    )["table"]
    base, tuned = (row["mean"] for row in table)
    assert base != tuned
    adapter.detach(model)
    gentle = replace(TRAINING, method="full", lr=1e-3)
    whole = mitune.tune(model, built, tmp_path / "full", gentle)
    merged = merge(model, whole, tmp_path / "merged")
    adapter.load(model, whole)
    assert furthest(predict(case.load(merged)), predict(model)) < 1e-5


@ALL
def test_the_merged_gradient_is_pefts(tmp_path: Path, case: Case) -> None:
    check_gradient(case, "eager", tmp_path)


@ALL
def test_with_activations_computed_again_the_adapter_is_the_same(
    tmp_path: Path, case: Case
) -> None:
    model = case.load()
    built = mitune.build_set(model, TEXTS, tmp_path / "set", quick(model, case))
    gentle = replace(TRAINING, eps=1e-4, lr=1e-2)
    able = denoiser_of(model)._supports_gradient_checkpointing
    if not (able and model.passes.recomputes):
        words = "then predicts something else" if able else "has none"
        with pytest.raises(UserError, match=f"{words}: leave it off"):
            mitune.tune(model, built, tmp_path / "1", gentle, gradient_checkpointing=True)
        return
    runs = []
    for on in (False, True):
        out = mitune.tune(model, built, tmp_path / str(on), gentle, gradient_checkpointing=on)
        adapter.load(model, out)
        runs.append(predict(model))
        adapter.detach(model)
    assert furthest(runs[1], runs[0]) < 1e-5


@EVERY
def test_parts_that_do_not_fit_are_refused(case: Case) -> None:
    for change, words in (
        (lambda p: p.transformer.register_to_config(in_channels=8), "takes 8 channels"),
        (
            lambda p: p.vae.register_to_config(
                **{"z_dim" if "z_dim" in p.vae.config else "latent_channels": 16}
            ),
            "the vae's latents have 16.*: expected the same number",
        ),
        (lambda p: setattr(p, "text_encoder", None), "the text_encoder is missing"),
    ):
        pipeline = case.pipeline()
        change(pipeline)
        with pytest.raises(UserError, match=words):
            mitune.load(pipeline)
    pipeline = case.pipeline()
    width = next(
        n
        for n in (
            "cap_feat_dim",
            "joint_attention_dim",
            "caption_channels",
            "text_embed_dim",
            "cross_attention_dim",
        )
        if n in pipeline.transformer.config
    )
    pipeline.transformer.register_to_config(**{width: 9})
    with pytest.raises(UserError, match="transformer takes text of width 9"):
        mitune.load(pipeline)


@EVERY
def test_what_is_compiled_for_one_shape_is_refused_where_there_is_none(
    tmp_path: Path, case: Case
) -> None:
    if case.compiles:
        return
    model = case.load()
    words = "takes each text at its own length: expected backend eager"
    with pytest.raises(UserError, match=f"backend is inductor, .* {words}"):
        mitune.build_set(model, TEXTS, tmp_path / "set", quick(model, case), backend="inductor")
    built = mitune.build_set(model, TEXTS, tmp_path / "set", quick(model, case))
    for options in ({"backend": "inductor"}, {"cuda_graphs": True}):
        with pytest.raises(UserError, match=words):
            mitune.tune(model, built, tmp_path / "adapter", TRAINING, **options)


@EVERY
def test_a_tokenizer_that_says_no_length_is_read_as_the_pipeline_reads_it(case: Case) -> None:
    pipeline, own = case.pipeline(), case.load()
    getattr(pipeline, own.tokenizers[-1]).model_max_length = int(1e30)
    model = case.load(pipeline)
    assert model.prompt_limit == own.prompt_limit
    assert torch.equal(predict(model), predict(own))


@EVERY
def test_sizes(case: Case) -> None:
    model = case.load()
    height, width = model.picture_size
    step = model.size_step
    taller = mitune.load(case.pipeline(), size=(height + step, width))
    assert taller.latent_shape != model.latent_shape
    with pytest.raises(UserError, match="multiples of"):
        mitune.load(case.pipeline(), size=(height + 1, width))


def test_a_flow_of_dpm_solver_is_stepped_by_euler(tmp_path: Path) -> None:
    """As Sana's published pipelines are; the merged model keeps its own solver."""
    pipeline = sana_pipeline()
    pipeline.scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    pipeline.save_pretrained(tmp_path / "model")
    model, euler = mitune.load(tmp_path / "model"), mitune.load(sana_pipeline())
    options = {"candidates": 1, "steps": STEPS, "guidance": GUIDANCE}
    one, other = (list(mitune.generate(m, TEXTS, **options)) for m in (model, euler))
    assert all(torch.equal(a.latent, b.latent) for a, b in zip(one, other, strict=True))
    built = mitune.build_set(model, TEXTS, tmp_path / "set", quick(model, CASES["Sana"]))
    out = mitune.tune(model, built, tmp_path / "adapter", TRAINING)
    merged = SanaPipeline.from_pretrained(merge(model, out, tmp_path / "merged"))
    assert isinstance(merged.scheduler, DPMSolverMultistepScheduler)
    assert mitune.load(merged).parts["scheduler"] == model.parts["scheduler"]
