"""A set's pictures for other programs: read back as those programs read them."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import mitune
from mitune.adapters import adapter
from mitune.adapters.adapter_file import digest
from mitune.cli.program import parse
from mitune.core.errors import UserError
from mitune.core.images import as_pictures, from_pictures

PROMPTS = ["a red circle", "a blue square", "a green triangle"]
QUICK = {"candidates": 4, "keep": 1, "steps": 4, "draws": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pictures") / "set"
    mitune.build_set(mitune.load("shapes-v1", device="cpu"), PROMPTS, place, **QUICK)
    return place


def pixels(content: bytes) -> torch.Tensor:
    return from_pictures([Image.open(io.BytesIO(content))], (32, 32))[0]


def test_pairs_are_the_best_and_the_worst(tmp_path: Path, made: Path, capsys: Any) -> None:
    out = tmp_path / "pairs"
    command = ["export", "--model", "shapes-v1", "--set", str(made), "--out", str(out)]
    command += ["--format", "pairs"]
    assert parse(command).run() == {"format": "pairs", "path": str(out), "pairs": 3}
    assert "pairs: 3 pairs in" in capsys.readouterr().out
    model, own = mitune.load("shapes-v1", device="cpu"), mitune.FineTuningSet.open(made)
    table = own.table(["prompt", "score"]).to_pydict()
    kept = dict(own.selected())
    rows = pq.read_table(out / "pairs.parquet").to_pylist()
    assert [row["caption"] for row in rows] == PROMPTS
    for row in rows:
        pool = [
            score
            for prompt, score in zip(table["prompt"], table["score"], strict=True)
            if prompt == row["caption"]
        ]
        assert (row["nats_0"], row["nats_1"], row["label_0"]) == (max(pool), min(pool), 1)
        best = model.decode(kept[row["caption"]][None])[0]
        assert float((pixels(row["jpg_0"]) - best).abs().max()) < 0.01  # 8 bits
        # The loser was drawn again: another picture, and the worst one's.
        candidates = list(
            mitune.generate(model, [row["caption"]], candidates=4, steps=4, scored=False)
        )
        drawn = model.decode(torch.stack([c.latent for c in candidates]))
        nearest = (drawn - pixels(row["jpg_1"])).abs().amax((1, 2, 3))
        assert float(nearest.min()) < 0.02
        assert not np.array_equal(pixels(row["jpg_0"]), pixels(row["jpg_1"]))


def test_selected_pictures_as_a_folder_and_as_shards(tmp_path: Path, made: Path) -> None:
    model, own = mitune.load("shapes-v1", device="cpu"), mitune.FineTuningSet.open(made)
    seen: list[int] = []
    for form in ("imagefolder", "webdataset"):
        assert mitune.export_pictures(model, own, tmp_path / form, form, progress=seen.append) == 3
    assert seen == [1, 2, 3] * 2
    expected = [as_pictures(model.decode(latent[None]))[0] for _, latent in own.selected()]
    lines = (tmp_path / "imagefolder" / "metadata.jsonl").read_text().splitlines()
    for line, picture, prompt in zip(lines, expected, PROMPTS, strict=True):
        row = json.loads(line)
        found = Image.open(tmp_path / "imagefolder" / row["file_name"])
        assert np.abs(np.asarray(found, int) - np.asarray(picture, int)).max() <= 1
        assert row["text"] == prompt
        assert row["mi_nats"] > -1e9
    with tarfile.open(tmp_path / "webdataset" / "000000.tar") as shard:
        names = shard.getnames()
        assert names == [f"{i:06d}.{kind}" for i in range(3) for kind in ("png", "txt", "json")]
        text = shard.extractfile("000001.txt")
        assert text is not None
        assert text.read().decode() == PROMPTS[1]
    # And mitune reads them itself, as captioned pictures.
    again = mitune.build_real_set(model, tmp_path / "imagefolder", tmp_path / "real", draws=2)
    assert sorted(again.prompts) == sorted(PROMPTS)


def test_losers_of_an_adapters_set_are_the_adapters(tmp_path: Path, made: Path) -> None:
    model, own = mitune.load("shapes-v1", device="cpu"), mitune.FineTuningSet.open(made)
    config = mitune.TuneConfig(rank=2, batch=3, micro_batch=3, iterations=1, lr=1e-2)
    out = mitune.tune(model, own, tmp_path / "adapter", config)
    tuned = mitune.load("shapes-v1", device="cpu", adapter=out)
    built = mitune.build_set(tuned, PROMPTS, tmp_path / "set", adapter=digest(out), **QUICK)
    with pytest.raises(UserError, match="drawn with another adapter"):
        mitune.export_pictures(model, built, tmp_path / "pairs", "pairs")
    made_pairs = mitune.export_pictures(
        tuned, built, tmp_path / "pairs", "pairs", adapter=digest(out)
    )
    assert made_pairs == 3
    adapter.detach(tuned)


def test_mistakes_are_one_line(tmp_path: Path, made: Path) -> None:
    model, own = mitune.load("shapes-v1", device="cpu"), mitune.FineTuningSet.open(made)
    with pytest.raises(UserError, match="format 'zip' is not known: choose one of pairs"):
        mitune.export_pictures(model, own, tmp_path / "a", "zip")  # type: ignore[arg-type]
    for words, text in (
        (["--format", "pairs"], "format pairs is of a set's pictures: give --set"),
        (["--format", "kohya", "--set", str(made)], "is of an adapter: give --adapter"),
        (["--format", "kohya"], "is of an adapter: give --adapter"),
    ):
        with pytest.raises(UserError, match=text):
            parse(["export", "--out", str(tmp_path / "b"), *words]).run()
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    with pytest.raises(UserError, match="is not empty"):
        mitune.export_pictures(model, own, full, "imagefolder")
    alone = mitune.build_set(
        model, PROMPTS[:1], tmp_path / "one", candidates=1, keep=1, steps=4, draws=2
    )
    with pytest.raises(UserError, match="no pool with two scored candidates"):
        mitune.export_pictures(model, alone, tmp_path / "c", "pairs")
    assert not (tmp_path / "c").exists()
