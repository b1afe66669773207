import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch
from fake_build import POOL, PROMPTS, SETTINGS, build, fake, pool, writer

from mitune.core.errors import UserError
from mitune.sets import FineTuningSet, SetWriter


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    build(folder)
    return folder


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        FineTuningSet.open(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def winners(prompt_index: int, keep: int) -> list[int]:
    scores = {index: fake(prompt_index, index).score for index in range(POOL)}
    return sorted(scores, key=lambda index: scores[index], reverse=True)[:keep]


def test_table_has_every_candidate_as_it_was_given(built: Path) -> None:
    back = FineTuningSet.open(built)
    rows = back.table().to_pylist()
    assert (back.settings, back.prompts) == (SETTINGS, PROMPTS)
    assert (back.candidates, back.keep, back.rule, back.complete) == (POOL, 2, "mi", True)
    for row, candidate in zip(rows, pool(), strict=True):
        kept = candidate.index in winners(candidate.prompt_index, 2)
        assert row == {
            "prompt": candidate.prompt,
            "prompt_index": candidate.prompt_index,
            "prompt_id": candidate.prompt_id,
            "candidate": candidate.index,
            "seed": 11,
            "score": torch.tensor(candidate.score).item(),
            "terms": candidate.terms[:, 0].tolist(),
            "cross_terms": candidate.terms[:, 1].tolist(),
            "finite": True,
            "pruned": False,
            "rank": winners(candidate.prompt_index, POOL).index(candidate.index),
            "selected": kept,
            "latent": candidate.latent.flatten().tolist() if kept else None,
            "latent_shape": [3, 4, 2] if kept else None,
        }


@pytest.mark.filterwarnings("error")  # torch warns of read-only memory
def test_selected_gives_the_latents_by_prompt_then_rank(built: Path) -> None:
    pairs = FineTuningSet.open(built).selected()
    expected = [fake(p, index) for p in range(len(PROMPTS)) for index in winners(p, 2)]
    for (prompt, latent), candidate in zip(pairs, expected, strict=True):
        assert prompt == candidate.prompt
        assert latent.dtype == torch.float32
        assert torch.equal(latent, candidate.latent)
    pairs[0][1].zero_()  # the caller's own memory: neither the file nor the next call may change
    assert torch.equal(FineTuningSet.open(built).selected()[0][1], expected[0].latent)


def test_latents_keep_their_logical_order_in_channels_last(tmp_path: Path) -> None:
    latent = torch.randn(1, 3, 4, 5).contiguous(memory_format=torch.channels_last)[0]
    assert not latent.is_contiguous()
    with SetWriter(tmp_path, {}, PROMPTS[:1], 1, 1) as target:
        target.add(fake(0, 0, latent=latent))
    assert torch.equal(FineTuningSet.open(tmp_path).selected()[0][1], latent)


def test_the_best_of_the_whole_set_whatever_their_prompts(built: Path) -> None:
    kept = [fake(p, index) for p in range(len(PROMPTS)) for index in winners(p, 2)]
    ranked = sorted(kept, key=lambda candidate: candidate.score, reverse=True)
    for count in (0, 1, 5, 14, 99):
        best = FineTuningSet.open(built).best(count)
        assert [prompt for prompt, _ in best] == [c.prompt for c in ranked[:count]]
        assert all(torch.equal(a[1], b.latent) for a, b in zip(best, ranked, strict=False))


def test_ties_of_the_whole_set_go_to_the_earlier_prompt(tmp_path: Path) -> None:
    with writer(tmp_path, keep=1) as target:
        for candidate in pool():
            target.add(dataclasses.replace(candidate, score=float(candidate.prompt_index == 6)))
    best = FineTuningSet.open(tmp_path).best(3)
    assert [prompt for prompt, _ in best] == [PROMPTS[6], PROMPTS[0], PROMPTS[1]]


def test_table_of_some_columns(built: Path) -> None:
    table = FineTuningSet.open(built).table(["score", "prompt"])
    assert table.column_names == ["score", "prompt"]
    assert table.num_rows == POOL * len(PROMPTS)
    with pytest.raises(KeyError, match="scores"):
        FineTuningSet.open(built).table(["scores"])


def test_summary_of_a_complete_set(built: Path) -> None:
    scores = [candidate.score for candidate in pool()]
    kept = [fake(p, index).score for p in range(len(PROMPTS)) for index in winners(p, 2)]
    assert json.loads(json.dumps(FineTuningSet.open(built).summary())) == {
        "path": str(built),
        "complete": True,
        "prompts": 7,
        "finished_prompts": 7,
        "candidates_per_prompt": 4,
        "candidates": 28,
        "rule": "mi",
        "unit": "nats",
        "keep": 2,
        "kept": 14,
        "short_prompts": 0,
        "pruned": 0,
        "non_finite": 0,
        "score_mean_all": pytest.approx(sum(scores) / 28, rel=1e-6),
        "score_mean_kept": pytest.approx(sum(kept) / 14, rel=1e-6),
    }


def test_a_set_that_has_only_begun_is_readable(tmp_path: Path) -> None:
    writer(tmp_path).close()
    back = FineTuningSet.open(tmp_path)
    assert not back.complete
    assert back.table().num_rows == 0
    assert back.table().column_names[0] == "prompt"
    assert back.selected() == []
    summary = back.summary()
    assert (summary["finished_prompts"], summary["score_mean_kept"]) == (0, None)
    shutil.rmtree(tmp_path / "parts")
    assert FineTuningSet.open(tmp_path).table().num_rows == 0


def test_a_reader_beside_a_writer_keeps_what_it_opened(tmp_path: Path) -> None:
    with writer(tmp_path) as target:
        for candidate in pool([0, 1]):
            target.add(candidate)
        back = FineTuningSet.open(tmp_path)
        for candidate in pool([2, 3]):
            target.add(candidate)
        assert back.table().num_rows == 2 * POOL
        assert len(back.selected()) == back.summary()["kept"] == 4


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_part(copy: Path, share: float) -> None:
    part = copy / "parts" / "part-00001.parquet"
    content = part.read_bytes()
    part.write_bytes(content[: int(share * len(content))])
    message = refusal(copy)
    assert message.startswith(f"{part} is truncated or damaged")
    assert "remove it and run the same build again" in message


def test_flipped_bytes_are_noticed_or_harmless(copy: Path) -> None:
    whole = FineTuningSet.open(copy).table()
    part = copy / "parts" / "part-00001.parquet"
    content = part.read_bytes()
    refused = 0
    places = range(4, len(content), 31)
    for place in places:
        part.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        try:
            # Statistics and the like have no checksum, and are no part of what is read.
            assert FineTuningSet.open(copy).table() == whole, place
        except UserError:
            refused += 1
    assert refused > len(places) / 2


def test_part_of_another_set(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with writer(other, settings={**SETTINGS, "guidance": 5.0}) as target:
        for candidate in pool():
            target.add(candidate)
    name = "parts/part-00001.parquet"
    shutil.copy(other / name, copy / name)
    assert refusal(copy).startswith(f"{copy / name} is a foreign file, not written as part 1")


def test_part_under_another_number(copy: Path) -> None:
    shutil.copy(copy / "parts/part-00000.parquet", copy / "parts/part-00001.parquet")
    assert "part-00001.parquet is a foreign file" in refusal(copy)


@pytest.mark.parametrize("name", ["part-00004.parquet", "part-000001.parquet", "mine.parquet"])
def test_stray_parquet(copy: Path, name: str) -> None:
    shutil.copy(copy / "parts/part-00001.parquet", copy / "parts" / name)
    assert refusal(copy).startswith(f"{copy / 'parts' / name} is a foreign file")


def test_parts_that_cannot_be_listed_are_no_empty_set(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", denied)
        assert refusal(copy).startswith(f"{copy / 'parts'} cannot be read (Permission denied)")
    shutil.rmtree(copy / "parts")
    (copy / "parts").write_text("")
    assert refusal(copy).startswith(f"{copy / 'parts'} cannot be read (Not a directory)")


def test_parquet_of_other_columns_and_no_parquet(copy: Path) -> None:
    part = copy / "parts" / "part-00001.parquet"
    stamp = pq.read_schema(part).metadata
    table = pa.table({"prompt": ["a"]})
    pq.write_table(table, part)
    assert "foreign file" in refusal(copy)
    pq.write_table(table.replace_schema_metadata(stamp), part)
    assert "foreign file" in refusal(copy)
    part.write_text("prompt,score\n" * 100)
    assert "truncated or damaged" in refusal(copy)


def test_rows_taken_out_of_a_part(copy: Path) -> None:
    part = copy / "parts" / "part-00001.parquet"
    pq.write_table(pq.read_table(part).slice(0, 5), part)
    assert f"{part} has 5 rows" in refusal(copy)


def test_damage_after_open_is_told(copy: Path) -> None:
    back = FineTuningSet.open(copy)
    (copy / "parts" / "part-00001.parquet").write_bytes(b"")
    for read in (back.table, back.selected):
        with pytest.raises(UserError, match=r"part-00001.parquet is truncated or damaged"):
            read()


def test_no_set_there(tmp_path: Path) -> None:
    assert "is no fine-tuning set" in refusal(tmp_path / "absent")
    assert "is no fine-tuning set" in refusal(tmp_path)
    (tmp_path / "file").touch()
    assert "is no fine-tuning set" in refusal(tmp_path / "file")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda run: run.pop("format"), "describes no fine-tuning set"),
        (lambda run: run.update(version=1), "has format version 1; expected 2"),
        (lambda run: run.pop("prompts"), "was changed by hand"),
        (lambda run: run["selection"].update(keep=0), "was changed by hand"),
        (lambda run: run["selection"].update(extra=0), "was changed by hand"),
        (lambda run: run["settings"].update(guidance=5.0), "part-00000.parquet is a foreign file"),
    ],
)
def test_changed_run_json(copy: Path, change: Any, line: str) -> None:
    run = json.loads((copy / "run.json").read_text())
    change(run)
    (copy / "run.json").write_text(json.dumps(run))
    assert line in refusal(copy)


@pytest.mark.parametrize("content", [b"", b'{"format": "mitune-set", ', b"\xff\xfe", b"[1]"])
def test_damaged_run_json(copy: Path, content: bytes) -> None:
    (copy / "run.json").write_bytes(content)
    assert refusal(copy).startswith(str(copy / "run.json"))


def test_pyarrow_dataset_reads_the_parts(built: Path) -> None:
    table = pyarrow.dataset.dataset(built / "parts", format="parquet").to_table()
    assert table.num_rows == POOL * len(PROMPTS)
    kept = table.filter(table["selected"])
    assert kept.num_rows == 2 * len(PROMPTS)
    assert all(latent is not None for latent in kept["latent"].to_pylist())


def test_polars_reads_the_parts(built: Path) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(built / "parts" / "*.parquet")
    assert frame.drop("latent_shape").shape == (POOL * len(PROMPTS), 13)
    assert frame.to_dicts() == FineTuningSet.open(built).table().to_pylist()


def test_duckdb_reads_the_parts(built: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    query = (
        f"select prompt, score, latent from '{built}/parts/*.parquet' where selected order by all"
    )
    pairs = sorted(FineTuningSet.open(built).table().to_pylist(), key=lambda r: r["prompt_index"])
    expected = sorted((r["prompt"], r["score"], r["latent"]) for r in pairs if r["selected"])
    assert duckdb.sql(query).fetchall() == expected


def test_datasets_loads_the_folder(built: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(built), split="train", cache_dir=str(tmp_path))
    assert loaded.to_list() == FineTuningSet.open(built).table().to_pylist()
