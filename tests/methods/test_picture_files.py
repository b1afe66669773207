"""Pictures drawn into files: by any method, the best of several, going on after an interruption."""

import io
from pathlib import Path

import pytest
from PIL import Image

from mitune.config.sampling import SamplerConfig
from mitune.config.sets import GenerateConfig
from mitune.config.shard import Shard
from mitune.core.errors import UserError
from mitune.core.files import file_lock
from mitune.core.images import as_pictures
from mitune.engine.stream import generate
from mitune.methods.picture_files import draw_pictures, file_names
from mitune.methods.sampling.attend_and_excite import AttendAndExcite
from mitune.methods.sampling.known import find_method
from mitune.methods.sampling.sample import sample
from mitune.worlds.shapes_v1.prompts import prompts

PROMPTS = prompts("test")[:2]
CONFIG = GenerateConfig(candidates=2, sampler=SamplerConfig(steps=3, guidance=2.0), seed=3)


def png(model, latent):
    (picture,) = as_pictures(model.decode(latent[None]))
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


def files(folder: Path):
    return [(folder / name).read_bytes() for name in file_names(PROMPTS, 2)]


def test_the_best_of_several_by_mutual_information_is_kept(exact_model, tmp_path):
    draw_pictures(exact_model, PROMPTS, tmp_path / "samples", CONFIG, best_of=3)
    made = {}
    for c in generate(exact_model, PROMPTS, CONFIG, candidates=6):
        made.setdefault((c.prompt_index, c.index // 3), []).append(c)
    best = [max(made[key], key=lambda c: c.score) for key in sorted(made)]
    assert files(tmp_path / "samples") == [png(exact_model, c.latent) for c in best]


def test_a_method_draws_and_goes_on(exact_model, tmp_path):
    folder = tmp_path / "samples"
    draw_pictures(exact_model, PROMPTS, folder, CONFIG, method=AttendAndExcite)
    drawn = sample(exact_model, PROMPTS, AttendAndExcite, CONFIG)
    expected = [png(exact_model, c.latent) for c in drawn]
    assert files(folder) == expected
    (folder / file_names(PROMPTS, 2)[1]).unlink()
    seen = []
    draw_pictures(
        exact_model,
        PROMPTS,
        folder,
        CONFIG,
        method=AttendAndExcite,
        progress=lambda *a: seen.append(a),
    )
    assert seen == [(4, 4)]
    assert files(folder) == expected


def test_methods_by_name():
    assert find_method("guidance") is None
    assert find_method("attend-and-excite") is AttendAndExcite
    with pytest.raises(UserError, match="method 'x' is not known"):
        find_method("x")


def test_the_command(tmp_path, capsys):
    from mitune.cli import main

    given = ["generate", "--prompt", PROMPTS[0], "--steps", "2", "--quiet"]
    main([*given, "--out", str(tmp_path), "--images", "2", "--best-of", "2"])
    assert "2 pictures of 1 prompts" in capsys.readouterr().out
    (first, _) = sorted((tmp_path / "samples").iterdir())
    assert Image.open(first).size == (64, 64)
    for words in (["--method", "structured"], ["--images", "2"]):
        with pytest.raises(SystemExit, match="2"):
            main([*given, "--out", str(tmp_path), *words])
        assert "has pictures with" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*given, "--out", str(tmp_path), "--best-of", "0"])
    with pytest.raises(SystemExit, match="2"):
        main([*given, "--out", str(tmp_path), "--prompts", "x.txt"])
    assert "expected one of the two" in capsys.readouterr().err


def test_shares_together_are_the_whole(exact_model, tmp_path):
    whole, parts = tmp_path / "whole" / "samples", tmp_path / "parts" / "samples"
    draw_pictures(exact_model, PROMPTS, whole, CONFIG, best_of=2)
    seen = []
    for number in (2, 0, 1):
        draw_pictures(
            exact_model,
            PROMPTS,
            parts,
            CONFIG,
            best_of=2,
            shard=Shard(number=number, of=3),
            progress=lambda *a: seen.append(a),
        )
    assert seen == [(1, 1), (1, 2), (2, 2), (1, 1)]
    assert files(parts) == files(whole)
    assert sorted(path.name for path in parts.iterdir()) == sorted(file_names(PROMPTS, 2))


def test_a_share_waits_for_no_other_and_is_drawn_once(exact_model, tmp_path):
    share = Shard(number=1, of=2)
    (tmp_path / "samples").mkdir()
    with file_lock(tmp_path, Shard(number=0, of=2).name):
        draw_pictures(exact_model, PROMPTS, tmp_path / "samples", CONFIG, shard=share)
    with file_lock(tmp_path, share.name), pytest.raises(UserError, match="by another run"):
        draw_pictures(exact_model, PROMPTS, tmp_path / "samples", CONFIG, shard=share)


@pytest.mark.parametrize("text", ["", "1", "4/4", "-1/4", "0/0", "0/4/2", "a/b", "0 /4"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(UserError, match="expected NUMBER/OF"):
        Shard.read(text)
