"""The embedded world: what is drawn is what the oracle reads, and what prompts ask
for is what it judges."""

import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mitune
from mitune.core.errors import UserError
from mitune.worlds.denoiser_training import Training
from mitune.worlds.shapes import corpus, networks, oracle
from mitune.worlds.shapes.layout import KINDS, place
from mitune.worlds.shapes.pretrain.__main__ import Pretrain, pretrain
from mitune.worlds.shapes.pretrain.denoiser import UnetRecipe, train_unet
from mitune.worlds.shapes.pretrain.text import random_phrase
from mitune.worlds.shapes.prompts import (
    CATEGORIES,
    RELATIONS,
    UNSEEN,
    Item,
    Phrase,
    parse,
    prompts,
)
from mitune.worlds.shapes.scene import COLOURS, SHAPES, TEXTURES, Scenes, render


def scenes(kind: str, count: int, seed: int) -> Scenes:
    """Objects of different colours, one to four where they lie apart."""
    generator = torch.Generator().manual_seed(seed)
    most = 5 if kind == "apart" else 3
    objects = torch.randint(2 if most == 3 else 1, most, (count,), generator=generator)
    shape = torch.randint(len(SHAPES), (count, 4), generator=generator)
    if kind == "inside":  # within a circle or a square
        shape[:, 0] = torch.randint(2, (count,), generator=generator)
    colour = torch.stack([torch.randperm(6, generator=generator)[:4] for _ in range(count)])
    texture = torch.randint(len(TEXTURES), (count, 4), generator=generator)
    lay = place(kind, objects, shape, generator)
    return Scenes(
        count=objects,
        colour=colour,
        shape=shape,
        texture=texture,
        centre=lay.centre,
        radius=lay.radius,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_reads_what_was_drawn(kind: str) -> None:
    """At least 99 % of each attribute, and of the relation that the layout is of."""
    made = scenes(kind, 150, seed=1)
    seen = oracle.read(render(made))
    right: Counter[str] = Counter()
    total = int(made.count.sum())
    for row, objects in enumerate(seen):
        found = {each.colour: each for each in objects}
        number = int(made.count[row])
        right["count"] += len(objects) == number
        for i in range(number):
            each = found.get(COLOURS[made.colour[row, i]])
            right["colour"] += each is not None
            right["shape"] += each is not None and each.shape == SHAPES[made.shape[row, i]]
            right["texture"] += each is not None and each.texture == TEXTURES[made.texture[row, i]]
        first, second = (found.get(COLOURS[made.colour[row, i]]) for i in range(2))
        if kind != "apart" and first and second:
            one, other = (second, first) if kind == "inside" else (first, second)
            relation = {"bigger": "bigger than"}.get(kind, kind)
            right["relation"] += bool(oracle.holds(relation, one, other))
    assert right["count"] >= 0.99 * len(seen)
    assert all(right[name] >= 0.99 * total for name in ("colour", "shape", "texture"))
    assert kind == "apart" or right["relation"] >= 0.99 * len(seen)


def test_objects_that_lie_apart_neither_touch_nor_are_inside() -> None:
    for objects in oracle.read(render(scenes("apart", 60, seed=2))):
        for one in objects:
            for other in objects:
                if one is not other:
                    assert not oracle.holds("touching", one, other)
                    assert not oracle.holds("inside", one, other)


def test_pictures_have_one_size_of_each_shape() -> None:
    """So that an area does not tell a shape."""
    areas = [
        float(oracle.coverage(torch.tensor(i), torch.tensor([32.0, 32.0]), torch.tensor(8.0)).sum())
        for i in range(len(SHAPES))
    ]
    assert max(areas) / min(areas) < 1.05


@pytest.mark.parametrize("category", CATEGORIES)
def test_prompts_are_read_as_they_are_written_and_splits_are_disjoint(category: str) -> None:
    lists = {
        (split, unseen): prompts(split, category, unseen=unseen)
        for split in ("train", "test")
        for unseen in (False, True)
    }
    combinations = {}
    for key, texts in lists.items():
        assert len(set(texts)) == len(texts) > 1
        assert texts == prompts(key[0], category, unseen=key[1])
        phrases = [parse(text) for text in texts]
        assert [str(phrase) for phrase in phrases] == texts
        combinations[key] = {tuple(sorted(map(str, phrase.items))) for phrase in phrases}
        pairs = [
            any({(i.colour, i.shape), (i.texture, i.shape)} & UNSEEN for i in phrase.items)
            for phrase in phrases
        ]
        assert all(pairs) if key[1] else not any(pairs)
    for unseen in (False, True):
        assert not combinations["train", unseen] & combinations["test", unseen]


def seen(shape: str, colour: str, texture: str, x: float, y: float, radius: float) -> oracle.Seen:
    mask = oracle.coverage(
        torch.tensor(SHAPES.index(shape)), torch.tensor([x, y]), torch.tensor(radius)
    )
    return oracle.Seen(colour, shape, texture, (x, y), float(mask.sum()), (mask > 0.5).numpy())


def test_verdicts() -> None:
    circle = seen("circle", "red", "striped", 15, 30, 7)
    square = seen("square", "blue", "solid", 45, 30, 7)
    star = seen("star", "green", "dotted", 45, 50, 7)
    for prompt, objects, graded, strict in (
        ("a red circle and a blue square", [circle, square], 1.0, True),
        ("a circle and a square", [circle, square], 1.0, True),
        ("a striped circle and a dotted square", [circle, square], 0.5, False),
        ("a blue circle and a red square", [circle, square], 0.0, False),
        ("a red circle to the left of a blue square", [circle, square], 1.0, True),
        ("a red circle to the right of a blue square", [circle, square], 2 / 3, False),
        ("a red circle", [circle, square], 0.75, False),
        ("a red circle and a green star below a blue square", [circle, square, star], 1.0, True),
        ("a red circle and a blue square above a green star", [circle, square, star], 1.0, True),
        ("two red circles", [circle], 0.5, False),
    ):
        verdict = oracle.judge(prompt, objects)
        assert verdict.graded == pytest.approx(graded), prompt
        assert verdict.strict == strict, prompt


def test_an_equal_object_is_matched_so_that_the_relation_may_hold() -> None:
    left, right = (seen("circle", "red", "solid", x, 30, 7) for x in (12, 52))
    square = seen("square", "blue", "solid", 32, 30, 7)
    phrase = Phrase((Item("circle", "red", None, 1), Item("square", "blue")), "to the right of")
    assert oracle.judge(phrase, [left, right, square]).graded == pytest.approx(0.75)


def test_other_words_are_refused() -> None:
    for prompt in ("a red dog", "five red circles", "red circle", "four red circles and a star"):
        with pytest.raises(UserError, match="expected"):
            parse(prompt)
    assert parse("A striped red circle, inside the blue square.").relation == "inside"
    assert set(RELATIONS) >= {"inside", "touching", "bigger than"}


RECIPE = corpus.Recipe(dropout=0.0, untold=0.1)


def test_clean_captions_are_true() -> None:
    """The oracle, which knows nothing of the captioner, finds all they name and nothing besides."""
    shown = corpus.sample(240, RECIPE, torch.Generator().manual_seed(3))
    texts = [c.text for c in corpus.captions(shown, list(range(240)), RECIPE.clean(), seed=4)]
    seen = oracle.read(render(shown.scenes))
    strict = [oracle.judge(text, each).strict for text, each in zip(texts, seen, strict=True)]
    assert sum(strict) >= 0.99 * len(strict)
    phrases = [parse(text) for text in texts]
    assert all(prompts_shown(phrase) for phrase in phrases)
    assert {phrase.relation for phrase in phrases} == {None, *RELATIONS}
    assert {phrase.objects for phrase in phrases} == {1, 2, 3, 4}


def prompts_shown(phrase: Phrase) -> bool:
    return not any({(i.colour, i.shape), (i.texture, i.shape)} & UNSEEN for i in phrase.items)


def test_noisy_captions_are_wrong_about_as_often_as_they_should() -> None:
    noisy = replace(RECIPE, untold=0.0)
    shown = corpus.sample(600, noisy, torch.Generator().manual_seed(5))
    texts = [c.text for c in corpus.captions(shown, list(range(600)), noisy, seed=6)]
    single = [i for i in range(600) if int(shown.scenes.count[i]) == 1]
    ghosts = sum(" and " in texts[i] for i in single) / len(single)
    assert abs(ghosts - noisy.ghost) < 0.12
    equal = [i for i, kind in enumerate(shown.kinds) if kind == "equal"]
    wrong = sum(parse(texts[i]).objects != int(shown.scenes.count[i]) for i in equal) / len(equal)
    assert abs(wrong - noisy.miscounted) < 0.12
    assert all(prompts_shown(parse(text)) for text in texts)
    some = corpus.captions(shown, list(range(600)), replace(noisy, dropout=0.3), seed=6)
    assert 0.2 < sum(not caption.text for caption in some) / 600 < 0.4


def test_phrases_for_the_text_encoder_are_of_the_grammar() -> None:
    draw = random.Random(0)
    phrases = [random_phrase(draw) for _ in range(300)]
    assert [str(parse(str(phrase))) for phrase in phrases] == [str(phrase) for phrase in phrases]
    assert all(map(prompts_shown, phrases))


def test_the_stages_make_a_pipeline_that_mitune_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And training that was stopped goes on from its checkpoint to the same bits."""
    recipe = UnetRecipe(steps=4, batch=4, scenes=40, warmup=1)
    folder = pretrain(Pretrain(out=tmp_path, vae_steps=1, text_steps=1, recipe=recipe))
    work, name = tmp_path / "work", "unet/diffusion_pytorch_model.safetensors"
    straight = (work / name).read_bytes()
    for part in ("unet_checkpoint", "unet"):
        shutil.rmtree(work / part)
    save = Training.save

    def save_and_stop(training: Training, folder: Path) -> None:
        save(training, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Training, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train_unet(work, recipe, save_every=2)
    assert not (work / name).exists()
    train_unet(work, recipe, save_every=2)
    assert (work / name).read_bytes() == straight
    model = mitune.load(folder)
    assert (model.latent_shape, model.picture_size) == ((8, 8, 8), (64, 64))
    texts = ["three striped red crosses", "a red circle and a blue square above a green star"]
    assert model.too_long(texts) == []
    made = list(mitune.generate(model, texts, candidates=1, steps=2))
    assert len(oracle.read(model.decode(torch.stack([c.latent for c in made])))) == 2
    again = pretrain(
        Pretrain(out=tmp_path / "again", start=folder, recipe=replace(recipe, steps=1))
    )
    for part in ("vae", "text_encoder"):
        (one,), (other,) = ((at / part).glob("*.safetensors") for at in (folder, again))
        assert one.read_bytes() == other.read_bytes()
    started = Training(networks.denoiser, recipe, folder / "unet")
    weights = load_file(folder / name)
    assert all(
        torch.equal(master.detach(), weights[n].float())
        for n, master in zip(started.names, started.master, strict=True)
    )
