"""Pre-training of the first edition: captions are wrong at the stated rates, stages resume."""

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from mitune.worlds.shapes_v1 import oracle
from mitune.worlds.shapes_v1.pretrain.__main__ import Pretrain, pretrain
from mitune.worlds.shapes_v1.pretrain.denoiser import (
    Captions,
    Training,
    UnetRecipe,
    object_numbers,
    train_unet,
)
from mitune.worlds.shapes_v1.prompts import HELD_OUT
from mitune.worlds.shapes_v1.scene import COLOURS, SHAPES, render, sample_scenes

RECIPE = UnetRecipe()


def captions_of(recipe, count, clean):
    captions = Captions(recipe)
    generator = torch.Generator().manual_seed(5)
    scenes = sample_scenes(
        count, generator, objects=captions.objects, two_objects=recipe.two_objects
    )
    rows = captions.draw(scenes, object_numbers(captions, scenes), clean, generator)
    return scenes, [captions.texts[row] for row in rows]


def test_clean_captions_are_true():
    """The oracle, which knows nothing of the captioner, finds all they name and nothing besides."""
    scenes, texts = captions_of(replace(RECIPE, dropout=0.0), 600, clean=True)
    verdicts = oracle.score(texts, render(scenes))
    assert sum(v.strict for v in verdicts) / len(verdicts) >= 0.99


def test_noisy_captions_are_wrong_at_the_stated_rates():
    recipe = replace(RECIPE, dropout=0.0, relation=0.0)
    scenes, texts = captions_of(recipe, 2500, clean=False)
    pictures = render(scenes)
    verdicts = oracle.score(texts, pictures)
    pairs = torch.tensor([" and " in text for text in texts])
    single = scenes.count == 1
    ghosts = (pairs & single).float().sum() / single.sum()
    assert abs(float(ghosts) - recipe.ghost) < 0.04
    strict = torch.tensor([v.strict for v in verdicts])
    # Colours can be exchanged, to an effect, where colours and shapes differ and neither result is
    # one that captions never name.
    held_out = {(COLOURS.index(c), SHAPES.index(s)) for c, s in HELD_OUT}
    rows = zip(scenes.colour.tolist(), scenes.shape.tolist(), strict=True)
    possible = ~single & torch.tensor(
        [
            c[0] != c[1] and s[0] != s[1] and not held_out & {(c[0], s[1]), (c[1], s[0])}
            for c, s in rows
        ]
    )
    swapped = float((~strict[possible]).float().mean())
    assert abs(swapped - recipe.swapped) < 0.05
    assert float(strict[~single & ~possible].float().mean()) > 0.99
    # Nothing but ghosts and exchanged colours is wrong: those still show every colour.
    colours = torch.tensor([v.colours for v in verdicts])
    assert float((colours[~single] == 1).float().mean()) > 0.99


def test_dropout_and_held_out_objects():
    _, texts = captions_of(replace(RECIPE, dropout=0.5), 2000, clean=False)
    assert abs(sum(t == "" for t in texts) / len(texts) - 0.5) < 0.05
    for colour, shape in HELD_OUT:
        assert not any(f"{colour} {shape}" in text for text in texts)


def test_from_nothing_to_a_pipeline_and_resume(tmp_path, monkeypatch):
    recipe = UnetRecipe(steps=4, batch=4, scenes=64)
    folder = pretrain(Pretrain(out=tmp_path, vae_steps=2, text_steps=2, recipe=recipe))
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    assert pipeline.unet.config.cross_attention_dim == pipeline.text_encoder.config.hidden_size
    work = tmp_path / "work"
    straight = load_file(work / "unet_checkpoint" / "state.safetensors")
    for name in ("unet_checkpoint", "unet"):
        (work / name).rename(tmp_path / f"straight_{name}")
    save = Training.save

    def save_and_stop(training, folder):
        save(training, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Training, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train_unet(work, recipe, save_every=2)
    halfway = load_file(work / "unet_checkpoint" / "state.safetensors")
    train_unet(work, recipe, save_every=2)
    resumed = load_file(work / "unet_checkpoint" / "state.safetensors")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert not all(torch.equal(halfway[name], resumed[name]) for name in straight)
