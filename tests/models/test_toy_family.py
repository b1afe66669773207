"""A family of another kind, from a pool of candidates to an exported adapter, with no change to the
package. Plain diffusers is the reference."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from sd3_pipeline import sd3_pipeline
from tiny_parts import TEXTS, furthest, predict, with_lora
from toy_family import FAMILY, PRESET, Toy

import mitune
from mitune.adapters import adapter
from mitune.adapters.export.whole_model import merge
from mitune.adapters.export.write import export_adapter
from mitune.config.pruning import PruneConfig
from mitune.core.errors import UserError
from mitune.evaluation.drawing import draw
from mitune.evaluation.report import compare_adapter
from mitune.models import family as families
from mitune.runtime.prepared import Prepared
from mitune.training.batches import MicroBatch
from mitune.training.loss import denoising_loss


@pytest.fixture(autouse=True, scope="module")
def registered() -> Any:
    families.register(FAMILY)
    yield
    families._REGISTERED.remove(FAMILY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("toy") / "model"
    pipeline().save_pretrained(place)
    return place


def pipeline() -> StableDiffusion3Pipeline:
    return sd3_pipeline(third=False, dual=False)


def toy() -> Toy:
    return mitune.load(pipeline())


def test_it_is_recognised_live_and_from_a_folder(folder: Path) -> None:
    live, loaded = toy(), mitune.load(folder)
    assert type(live) is type(loaded) is Toy
    assert (live.fingerprint, live.parts) == (loaded.fingerprint, loaded.parts)
    assert live.parts.keys() >= {"transformer", "text_encoder_2", "tokenizer_2", "vae", "scheduler"}
    assert torch.equal(predict(live), predict(loaded))


def test_a_weight_that_is_not_finite_is_refused() -> None:
    broken = pipeline()
    broken.text_encoder_2.text_projection.weight.data[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"the text_encoder_2's weight text_projection\.weight is"):
        mitune.load(broken)
    broken.vae = None
    with pytest.raises(UserError, match="the vae is missing"):
        mitune.load(broken)


def test_its_text_is_diffusers_own() -> None:
    theirs = pipeline()
    text, null, pooled, null_pooled = theirs.encode_prompt(
        TEXTS, None, None, max_sequence_length=16
    )
    ours, empty = toy().encode_prompts(TEXTS), toy().encode_prompts(["", ""])
    torch.testing.assert_close(ours, {"text": text, "pooled": pooled})
    torch.testing.assert_close(empty, {"text": null, "pooled": null_pooled})
    assert {name: x.shape[0] for name, x in toy().encode_null().items()} == {"text": 1, "pooled": 1}


@pytest.mark.parametrize("backend", ["eager", "inductor"], ids=["eager", "compiled"])
def test_the_engine_draws_what_its_pipeline_does(backend: str) -> None:
    """From the same noise, with guidance, in slots that do not divide the pool."""
    model = toy()
    made = sorted(
        mitune.generate(model, TEXTS, candidates=2, seed=3, slots=3, backend=backend),
        key=lambda c: (c.prompt_index, c.index),
    )
    noise = torch.stack([first_noise(model, c) for c in made])
    theirs = pipeline()(
        prompt=[c.prompt for c in made],
        latents=noise,
        num_inference_steps=PRESET.sampler.steps,
        guidance_scale=PRESET.sampler.guidance,
        max_sequence_length=16,
        output_type="latent",
    ).images
    assert furthest(torch.stack([c.latent for c in made]), theirs) < 1e-4
    assert all(c.score > 0 for c in made)  # a sum of squares


def first_noise(model: Any, candidate: Any) -> torch.Tensor:
    from mitune.diffusion.noise import candidate_keys, normal

    key = candidate_keys([(candidate.seed, candidate.prompt, candidate.index)])
    return normal(key, torch.zeros(1, dtype=torch.int64), model.latent_shape)[0]


def test_half_precision_has_no_pass_that_it_cannot_have() -> None:
    model = toy()
    half, exact = (Prepared(model, precision=p) for p in ("bf16-mixed", "float32"))
    assert predict(exact).allclose(predict(model), atol=1e-5)
    assert 0 < furthest(predict(half), predict(model)) < 0.1
    with pytest.raises(UserError, match="has one of its own: expected auto"):
        Prepared(model, attention="math")


@pytest.mark.parametrize("joint", [False, True], ids=["transformer", "both text encoders too"])
def test_from_a_pool_to_an_exported_adapter(tmp_path: Path, joint: bool) -> None:
    model = toy()
    base = predict(model)
    built = mitune.build_set(
        model, TEXTS, tmp_path / "set", prune=PruneConfig(policy="halving", rungs=((3, 2),))
    )
    assert built.table().num_rows == 8
    assert [prompt for prompt, _ in built.selected()] == TEXTS
    config = replace(PRESET.tuning, text_encoder_lr=1e-3 if joint else None)
    out = mitune.tune(model, built, tmp_path / "adapter", config)
    assert torch.equal(predict(model), base)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]

    table = compare_adapter(model, out, TEXTS, out=tmp_path, images=1, seeds=[0])["table"]
    base_mi, tuned_mi = (row["mean"] for row in table)
    assert base_mi != tuned_mi
    scores = mitune.score(
        model, TEXTS, draw(model, TEXTS, images=1, sampler=PRESET.sampler, seed=0).latents
    )
    assert scores.isfinite().all()

    adapter.load(model, out)
    tuned = predict(model)
    assert furthest(tuned, base) > 1e-3
    adapter.detach(model)
    merged = mitune.load(merge(model, out, tmp_path / "merged"))
    assert furthest(predict(merged), tuned) < 1e-5
    exported = export_adapter(model, out, tmp_path / "export", "diffusers")
    theirs = with_lora(pipeline(), exported.path)
    assert furthest(predict(mitune.load(theirs)), tuned) < 1e-5
    with pytest.raises(UserError, match="without a kohya form"):
        export_adapter(model, out, tmp_path / "kohya", "kohya")


def test_the_loss_is_that_of_the_velocity() -> None:
    """``|| v - (eps - x0) ||^2`` at ``(1 - t) x0 + t eps``, the network's timestep being 1000 t."""
    model, generator = toy(), torch.Generator().manual_seed(2)
    clean, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    t, cond = torch.tensor([0.25, 0.75], dtype=torch.float64), model.encode_prompts(TEXTS)
    samples = MicroBatch(latents=clean, noise=noise, t=t, cond=cond)
    level = t.float().view(-1, 1, 1, 1)
    with torch.no_grad():
        found = denoising_loss(model, samples, model.process)
        v = model((1 - level) * clean + level * noise, 1000 * t.float(), cond)
    expected = (v - (noise - clean)).square().mean((1, 2, 3))
    torch.testing.assert_close(found, expected)
    with pytest.raises(UserError, match="snr_gamma is 5"):
        model.process.loss_weight(t, 5.0)


@pytest.mark.parametrize("backend", ["eager", "inductor"], ids=["eager", "compiled"])
def test_the_merged_gradient_is_pefts(tmp_path: Path, backend: str) -> None:
    """The same adapter by both ways, to rounding."""
    built = mitune.build_set(toy(), TEXTS, tmp_path / "set", candidates=2)
    runs = []
    for options in ({"gradient": "peft"}, {"backend": backend}):
        model = toy()
        out = mitune.tune(model, built, tmp_path / str(len(runs)), eps=1e-4, **options)
        adapter.load(model, out)
        runs.append(predict(model))
    assert furthest(runs[1], runs[0]) < 1e-4


def test_all_its_weights_train(tmp_path: Path) -> None:
    model = toy()
    built = mitune.build_set(model, TEXTS, tmp_path / "set", candidates=2)
    out = mitune.tune(model, built, tmp_path / "full", replace(PRESET.tuning, method="full"))
    theirs = StableDiffusion3Pipeline.from_pretrained(
        merge(model, out, tmp_path / "merged"),
        text_encoder_3=None,
        tokenizer_3=None,
    )
    adapter.load(model, out)
    assert furthest(predict(mitune.load(theirs)), predict(model)) < 1e-5
