"""Sets of real captioned pictures: scores, pools, resume, refusals. The embedded world's scenes are
the pictures: what they show is known."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mitune.cli import main
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.methods import real
from mitune.methods.build import build_set
from mitune.methods.pictures import export_pictures
from mitune.methods.real import build_real_set
from mitune.scoring.estimate import pointwise_mi
from mitune.scoring.score import score
from mitune.sets import FineTuningSet
from mitune.sets.captioned import read_captioned
from mitune.training.loop import tune
from mitune.worlds.shapes_v1.prompts import Phrase, all_objects
from mitune.worlds.shapes_v1.scene import COLOURS, SHAPES, render, sample_scenes

QUICK: dict[str, Any] = {"draws": 2, "seed": 3}


def scenes(count: int) -> tuple[torch.Tensor, list[str]]:
    """Pictures ``[count, 3, 32, 32]`` of two objects each, and what they show."""
    objects = torch.tensor([[COLOURS.index(c), SHAPES.index(s)] for c, s in all_objects()])
    drawn = sample_scenes(count, torch.Generator().manual_seed(0), objects=objects, two_objects=1.0)
    captions = []
    for colours, shapes in zip(drawn.colour.tolist(), drawn.shape.tolist(), strict=True):
        pairs = [(COLOURS[c], SHAPES[s]) for c, s in zip(colours, shapes, strict=True)]
        captions.append(str(Phrase(tuple(pairs))))
    return render(drawn), captions


def save(folder: Path, pictures: torch.Tensor, captions: list[str]) -> Path:
    folder.mkdir()
    pixels = (pictures * 255).round().byte().permute(0, 2, 3, 1)
    for number, (picture, caption) in enumerate(zip(pixels, captions, strict=True)):
        Image.fromarray(picture.numpy()).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(caption)
    return folder


def source(folder: Path, captions: list[str]) -> Path:
    return save(folder, scenes(len(captions))[0], captions)


def parts(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "parts").glob("*.parquet"))}


def test_scores_are_the_estimators_own_and_latents_the_encoders(shapes_model, tmp_path):
    pictures, captions = scenes(8)
    captions = [f"{caption} {n}" for n, caption in enumerate(captions)]  # all of them distinct
    folder = save(tmp_path / "pictures", pictures, captions)
    asked = {"estimator": "standard", "draws": 6, "seed": 5, "t_min": 400}
    made = build_real_set(shapes_model, folder, tmp_path / "s", **asked)
    exact = (pictures * 255).round() / 255
    latents = shapes_model.encode_images(exact)
    scores = pointwise_mi(
        shapes_model,
        latents,
        shapes_model.encode_prompts(captions),
        shapes_model.encode_null(),
        shapes_model.scheduler,
        shared_noise=True,
        **asked,
    )
    assert made.complete
    assert made.table(["score"])["score"].to_pylist() == pytest.approx(scores.tolist(), rel=1e-5)
    for (prompt, latent), caption, expected in zip(made.selected(), captions, latents, strict=True):
        assert prompt == caption
        assert torch.equal(latent, expected)
    order = sorted(range(8), key=lambda n: -scores[n])
    assert [prompt for prompt, _ in made.best(3)] == [captions[n] for n in order[:3]]
    assert torch.equal(made.best(3)[0][1], latents[order[0]])
    assert len(made.best(99)) == 8
    assert made.best(0) == []
    summary = made.summary()
    assert (summary["candidates"], summary["kept"], summary["non_finite"]) == (8, 8, 0)


def test_a_wrong_caption_scores_lower(shapes_model, tmp_path):
    """12 scenes of two objects, each once with its own caption and once with that of the next scene
    of two others. The margin is three standard errors of the paired differences, and four pairs in
    five."""
    pictures, captions = scenes(12)
    shown = [set(caption.split(" and ")) for caption in captions]
    wrong = [
        next(captions[m % 12] for m in range(n, n + 12) if shown[m % 12].isdisjoint(shown[n]))
        for n in range(12)
    ]
    found = []
    for name, given in (("right", captions), ("wrong", wrong)):
        folder = save(tmp_path / name, pictures, given)
        made = build_real_set(shapes_model, folder, tmp_path / f"{name}-set", draws=12)
        assert made.settings["estimator"] == "standard"
        by_caption = {
            (row["prompt"], row["candidate"]): row["score"] for row in made.table().to_pylist()
        }
        seen: dict[str, int] = {}
        scores = []
        for caption in given:
            scores.append(by_caption[caption, seen.setdefault(caption, 0)])
            seen[caption] += 1
        found.append(torch.tensor(scores))
    lost = found[0] - found[1]
    error = lost.std() / len(lost) ** 0.5
    assert lost.mean() > 3 * error
    assert (lost > 0).float().mean() > 0.8


def test_pictures_of_one_caption_are_a_pool(shapes_model, tmp_path):
    captions = ["a red circle", "a blue square", "a red circle", "a green circle", "a red circle"]
    made = build_real_set(
        shapes_model, source(tmp_path / "p", captions), tmp_path / "s", keep=2, **QUICK
    )
    assert made.prompts == ["a red circle", "a blue square", "a green circle"]
    assert (made.candidates, made.keep, made.complete) == (3, 2, True)
    rows = made.table().to_pylist()
    assert [(r["prompt_index"], r["candidate"]) for r in rows] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (2, 0),
    ]
    ranked = sorted(rows[:3], key=lambda row: -row["score"])
    assert [row["rank"] for row in ranked] == [0, 1, 2]
    assert [row["latent"] is not None for row in ranked] == [True, True, False]
    summary = made.summary()
    expected = {"finished_prompts": 3, "candidates": 5, "kept": 4, "short_prompts": 2}
    assert {name: summary[name] for name in expected} == expected
    assert {index: len(pool) for index, pool in made.terms([0, 1, 2]).items()} == {0: 3, 1: 1, 2: 1}
    assert "with up to 3 candidates each" in (tmp_path / "s" / "README.md").read_text()
    # Each of a pool's pictures scored what it scores alone: the noise is one for all.
    alone = save(tmp_path / "alone", scenes(5)[0][4:], captions[4:])
    again = build_real_set(shapes_model, alone, tmp_path / "again", **QUICK)
    assert again.table()["score"][0].as_py() == pytest.approx(rows[2]["score"], rel=1e-4, abs=1e-3)


def test_killed_and_resumed_it_is_the_uninterrupted_set(shapes_model, tmp_path, monkeypatch):
    monkeypatch.setattr(real, "_BLOCK", 4)
    # The caption that comes back spreads one part over three blocks.
    captions = [f"a red circle {n}" for n in range(10)]
    captions[5] = captions[9] = captions[1]
    folder = source(tmp_path / "p", captions)
    whole: list[tuple[int, int]] = []

    def make(out: Path, progress: Any = None) -> FineTuningSet:
        return build_real_set(shapes_model, folder, out, progress=progress, **QUICK)

    make(tmp_path / "whole", lambda *n: whole.append(n))
    assert whole == [(n, 10) for n in range(1, 11)]
    expected = parts(tmp_path / "whole")
    assert len(expected) == 2

    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 9:
            raise Killed

    out = tmp_path / "killed"
    with pytest.raises(Killed):
        make(out, kill)
    assert len(parts(out)) == 1
    assert not FineTuningSet.open(out).complete
    make(out)
    assert parts(out) == expected
    (out / "parts" / "part-00000.parquet").unlink()
    seen: list[tuple[int, int]] = []
    make(out, lambda *n: seen.append(n))
    assert parts(out) == expected
    assert seen == [(n, 10) for n in range(5, 11)]  # six pictures have its four captions
    monkeypatch.setattr(real, "_score", None)
    assert make(out).complete  # nothing is left to do


def test_what_decided_the_set_is_recorded_and_another_is_refused(shapes_model, tmp_path):
    captions = ["a red circle", "a blue square", "a red circle"]
    folder, out = source(tmp_path / "p", captions), tmp_path / "s"
    made = build_real_set(shapes_model, folder, out, **QUICK)
    settings = made.settings
    assert settings.pop("model_fingerprint") == shapes_model.fingerprint
    assert settings.pop("model_parts") == shapes_model.parts
    assert made.notes == {"model": "shapes-v1", "source": str(folder)}
    digest = settings["source"].pop("sha256")
    assert settings == {
        "estimator": "standard",
        "draws": 2,
        "convention": "paper",
        "t_min": 400,
        "seed": 3,
        "precision": "float32",
        "backend": "eager",
        "attention": "auto",
        "batch": 64,
        "source": {"pictures": 3, "size": [32, 32]},
    }
    assert json.loads((out / "run.json").read_text())["selection"]["pools"] == [2, 1]

    def refuse(**changes: Any) -> str:
        with pytest.raises(UserError) as caught:
            build_real_set(shapes_model, folder, out, **(QUICK | changes))
        return str(caught.value)

    assert "draws is 2 there and 3 here" in refuse(draws=3)
    assert "estimator is 'standard' there" in refuse(estimator="orthogonal")
    assert "attention is 'auto' there and 'math' here" in refuse(attention="math")
    assert "source.pictures is 3 there and 2 here" in refuse(limit=2)
    other = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(other, "PNG")
    (folder / "001.png").write_bytes(other.getvalue())
    assert f"source.sha256 is '{digest[:9]}" in refuse()


@pytest.mark.parametrize("removed", [False, True])
def test_a_source_that_changes_meanwhile(shapes_model, tmp_path, monkeypatch, removed):
    folder = source(tmp_path / "p", ["a red circle", "a blue square"])
    reads = []

    def changing(*given: Any, **options: Any) -> Any:
        reads.append(given)
        if len(reads) == 2:
            (folder / "001.txt").write_text("a green square")
            if removed:
                (folder / "001.png").unlink()
        return read_captioned(*given, **options)

    monkeypatch.setattr(real, "read_captioned", changing)
    with pytest.raises(UserError, match="changed while it was read"):
        build_real_set(shapes_model, folder, tmp_path / "s", **QUICK)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": "trajectory"}, "choose one of orthogonal, standard"),
        ({"draws": 0}, "draws is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"convention": "mine"}, "paper, reference"),
        ({"t_min": 2000}, "t_min is 2000"),
        ({"seed": -1}, "seed is -1"),
        ({"keep": 2}, "cannot keep 2 of 1"),
        ({"limit": 0}, "limit is 0"),
    ],
)
def test_nothing_is_written_for_bad_arguments(shapes_model, tmp_path, changes, message):
    folder = source(tmp_path / "p", ["a red circle"])
    with pytest.raises(UserError, match=message):
        build_real_set(shapes_model, folder, tmp_path / "s", **(QUICK | changes))
    assert not (tmp_path / "s").exists()


def test_a_damaged_picture_is_told_before_anything_is_written(shapes_model, tmp_path):
    folder = source(tmp_path / "p", ["a red circle", "a blue square"])
    (folder / "001.png").write_bytes((folder / "001.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"001\.png cannot be read"):
        build_real_set(shapes_model, folder, tmp_path / "s", **QUICK)
    assert not (tmp_path / "s").exists()


def test_the_command_line(tmp_path, capsys):
    def run(*words: object) -> dict[str, Any]:
        main([*map(str, words), "--quiet", "--json"])
        return json.loads(capsys.readouterr().out.strip().splitlines()[-1])

    def fails(*words: object) -> str:
        with pytest.raises(SystemExit) as stop:
            main([*map(str, words), "--quiet"])
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    folder = source(tmp_path / "p", [f"a red circle {n}" for n in range(4)])
    summary = run("real", "--source", folder, "--out", tmp_path / "real", "--draws", 2)
    assert (summary["candidates"], summary["kept"], summary["complete"]) == (4, 4, True)
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\na green circle\n")
    build = ["--candidates", 2, "--keep", 1, "--steps", 2, "--draws", 1]
    run("build", "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "set", *build)
    tune = ["tune", "--set", tmp_path / "set", "--iterations", 1, "--batch", 4]
    tune += ["--out", tmp_path / "a", "--real", tmp_path / "real"]
    run(*tune, "--real-share", 0.5)
    recorded = json.loads((tmp_path / "a" / "run.json").read_text())["settings"]
    assert (recorded["set"]["pairs"], recorded["real"]["pairs"]) == (3, 3)
    assert recorded["config"]["real_share"] == 0.5
    assert recorded["real"]["settings"]["source"]["pictures"] == 4
    assert "config.real_share is 0.5 there and 0.25 here" in fails(*tune, "--real-share", 0.25)
    assert "expected both or neither" in fails(*tune)
    assert "at most 0.571" in fails(*tune, "--real-share", 0.9)
    (tmp_path / "real" / "parts" / "part-00000.parquet").unlink()
    assert "real is not complete" in fails(*tune, "--real-share", 0.5)
    message = fails("real", "--source", tmp_path / "nowhere", "--out", tmp_path / "r")
    assert "nowhere is no folder" in message


def test_score_and_real_see_a_picture_alike(tmp_path, capsys):
    """Of each kind that could be read in two ways: a side that is up, other shapes, transparent
    and 16-bit pixels."""
    folder = tmp_path / "p"
    folder.mkdir()
    scene = Image.fromarray((scenes(1)[0][0] * 255).byte().permute(1, 2, 0).numpy())
    turned = Image.Exif()
    turned[0x0112] = 6
    scene.rotate(90, expand=True).save(folder / "a.jpg", quality=98, exif=turned)
    scene.resize((64, 32)).save(folder / "b.png")
    layer = scene.convert("RGBA")
    layer.paste((0, 255, 0, 0), (0, 20, 32, 32))
    layer.save(folder / "c.webp", lossless=True, exact=True)
    Image.fromarray((scenes(1)[0][0, 0] * 65535).numpy().astype("uint16")).save(folder / "d.png")
    names = sorted(path.name for path in folder.iterdir())
    captions = [f"a red circle {name}" for name in names]
    for name, caption in zip(names, captions, strict=True):
        (folder / name).with_suffix(".txt").write_text(caption)
    main(["real", "--source", str(folder), "--out", str(tmp_path / "r"), "--draws", "2", "--quiet"])
    capsys.readouterr()
    words = ["score", *(str(folder / name) for name in names), "--draws", "2", "--json"]
    for caption in captions:
        words += ["--prompt", caption]
    main([*words, "--estimator", "standard", "--t-min", "500"])
    scored = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["scores"]
    made = FineTuningSet.open(tmp_path / "r").table(["score"])["score"].to_pylist()
    assert [row["mi_nats"] for row in scored] == pytest.approx(made, rel=1e-5)


def test_a_score_that_is_no_number_is_told(shapes_model, tmp_path, capsys, monkeypatch):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    monkeypatch.setattr("mitune.scoring.score.score", lambda *_, **__: torch.tensor([float("nan")]))
    with pytest.raises(SystemExit) as stop:
        main(["score", str(tmp_path / "a.png"), "--prompt", "a red circle"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"the score of {tmp_path / 'a.png'} is nan" in line


def test_names_that_are_no_utf_8_are_printed_or_refused(tmp_path, capsys):
    """A picture is only opened; a source's name is written down, as UTF-8."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    save(folder, scenes(1)[0], ["a red circle"])
    with pytest.raises(SystemExit) as stop:
        main(["real", "--source", str(folder), "--out", str(tmp_path / "r"), "--quiet"])
    assert stop.value.code == 2
    assert "expected text in UTF-8" in capsys.readouterr().err
    main(["score", str(folder / "000.png"), "--prompt", "a red circle", "--draws", "1", "--json"])
    printed, last = capsys.readouterr().out.strip().splitlines()[-2:]
    assert r"\udcff/000.png" in printed
    assert json.loads(last)["scores"][0]["image"] == str(folder / "000.png")


def test_pictures_keep_their_shapes_in_buckets(shapes_model, tmp_path):
    """Each is scored by the model at its own size; a photograph that lies on its side is turned
    first; the set trains."""
    pictures, captions = scenes(6)
    folder = save(tmp_path / "pictures", pictures, captions)
    for number, (width, height) in enumerate(((32, 32), (64, 20), (20, 64), (90, 32))):
        picture = Image.open(folder / f"{number:03}.png").resize((width, height))
        picture.save(folder / f"{number:03}.png")
    lying = Image.open(folder / "004.png").resize((64, 20))
    exif = lying.getexif()
    exif[0x0112] = 6
    lying.save(folder / "004.png", exif=exif)
    options = {**QUICK, "estimator": "standard", "buckets": True}
    made = build_real_set(shapes_model, folder, tmp_path / "s", **options)
    shapes = [tuple(latent.shape) for _, latent in made.best(6)]
    assert len(shapes) == 6
    assert {(4, 8, 8), (4, 4, 12), (4, 12, 4)} == set(shapes)
    assert made.settings["buckets"]
    latents = dict(made.selected())
    rows = made.table(["prompt", "score"]).to_pydict()
    scores = dict(zip(rows["prompt"], rows["score"], strict=True))
    tall = shapes_model.at((12, 4))
    item = next(i for i in read_captioned(folder) if i.name.endswith("002.png"))
    expected = tall.encode_images(item.picture((48, 16))[None])
    assert torch.allclose(latents[item.caption], expected[0], atol=1e-4)
    options = {**QUICK, "estimator": "standard", "shared_noise": True}
    value = score(tall, [item.caption], expected, t_min=400, **options)
    assert abs(scores[item.caption] - float(value)) < 1e-3 * abs(float(value))
    with pytest.raises(UserError, match="buckets"):
        build_real_set(shapes_model, folder, tmp_path / "s", **QUICK, estimator="standard")
    config = TuneConfig(rank=2, batch=4, micro_batch=2, iterations=2)
    assert tune(shapes_model, made, tmp_path / "adapter", config)
    assert export_pictures(shapes_model, made, tmp_path / "pictures.out", "imagefolder") == 6
    sizes = {Image.open(p).size for p in (tmp_path / "pictures.out").glob("*.png")}
    assert sizes == {(32, 32), (48, 16), (16, 48)}


def test_sets_of_the_other_kind_are_refused(shapes_model, tmp_path):
    """A real set as a prior, and a generated one as real pictures."""
    pictures, captions = scenes(4)
    folder = save(tmp_path / "pictures", pictures, captions)
    shot = build_real_set(shapes_model, folder, tmp_path / "real", **QUICK)
    drawn = build_set(shapes_model, ["a red circle"], tmp_path / "set", candidates=2, steps=2)
    config = TuneConfig(rank=2, batch=2, iterations=1)
    with pytest.raises(UserError, match="is one of generated ones: expected one that `mitune real"):
        tune(shapes_model, drawn, tmp_path / "a", config, real=drawn, real_share=0.5)
    with pytest.raises(UserError, match="the prior set is one of real pictures"):
        tune(shapes_model, drawn, tmp_path / "b", config, prior=shot, prior_weight=0.5)
