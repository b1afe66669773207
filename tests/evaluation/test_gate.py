"""The gate of the second edition, on random weights: what it computes, and that it resumes."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from mitune.core.errors import UserError
from mitune.evaluation import categories, gate
from mitune.worlds.pretraining import assemble
from mitune.worlds.shapes2 import networks
from mitune.worlds.shapes2.prompts import CATEGORIES, prompts, rests


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of the second edition's networks with random weights."""
    torch.manual_seed(0)
    work = tmp_path_factory.mktemp("random")
    tokenizer = networks.write_tokenizer(work / "tokenizer")
    networks.text_encoder(tokenizer).save_pretrained(work / "text_encoder")
    vae = networks.vae()
    vae.register_to_config(scaling_factor=1.0)
    vae.save_pretrained(work / "vae")
    networks.denoiser().save_pretrained(work / "unet")
    return assemble(work, work / "pipeline")


def test_the_rest_of_a_prompt_is_it_without_each_phrase() -> None:
    assert rests("a red circle and a blue square") == ["a blue square", "a red circle"]
    assert rests("a red circle above a blue square") == [
        "a blue square",
        "a red circle",
        "a red circle and a blue square",
    ]
    assert rests("a star and a red circle above a blue square") == [
        "a red circle above a blue square",
        "a star and a blue square",
        "a star and a red circle",
        "a star and a red circle and a blue square",
    ]
    assert rests("three red circles") == [""]


def test_the_gate_ranks_every_pool_by_every_rule_and_resumes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    options = gate.Options(
        model=folder, out=tmp_path, guidance=(1.0, 3.0), prompts=1, candidates=3, steps=2, draws=2
    )
    gate.main(options)
    table = pq.read_table(tmp_path / "guidance-3.parquet")
    assert table["prompt"].to_pylist()[::3] == [prompts("train", c)[0] for c in CATEGORIES]
    assert table["candidate"].to_pylist() == [0, 1, 2] * len(CATEGORIES)
    kinds = ("trajectory", "standardised", "orthogonal", "standard", "phrase")
    assert {name.split()[0] for name in table.column_names} >= set(kinds)
    # Of one object there is one phrase: the least is the whole.
    for kind in ("t>-1", "t>400"):
        whole, phrase = table[f"standard {kind}"].to_pylist(), table[f"phrase {kind}"].to_pylist()
        number = [i for i, c in enumerate(table["category"].to_pylist()) if c == "numeracy"]
        assert [phrase[i] for i in number] == pytest.approx([whole[i] for i in number], rel=1e-4)
    made = (tmp_path / "gate.md").read_text()
    assert made.count("\n") > 20

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(gate, "pools", fail)
    gate.main(options)  # from the files
    assert (tmp_path / "gate.md").read_text() == made
    with pytest.raises(UserError, match="other settings"):
        gate.main(replace(options, draws=3))
    capsys.readouterr()


def test_categories_are_judged_each_by_its_own_prompts(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    options = categories.Options(
        model=folder, guidance=(1.0,), prompts=2, images=1, steps=2, out=out
    )
    categories.main(options)
    assert all(category in out.read_text() for category in ("all", *CATEGORIES))
