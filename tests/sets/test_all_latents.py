"""Sets that store the latent of every candidate."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_build import build, fake, pool, writer

from mitune.core.errors import UserError
from mitune.sets import FineTuningSet


def test_every_latent_is_stored_and_the_same_ones_are_kept(tmp_path: Path) -> None:
    build(tmp_path / "kept")
    with writer(tmp_path / "all", all_latents=True) as made:
        for candidate in pool():
            made.add(candidate)
    some, every = (FineTuningSet.open(tmp_path / name) for name in ("kept", "all"))
    assert (
        sum(shape is None for shape in some.table(["latent_shape"])["latent_shape"].to_pylist()) > 0
    )
    for row in every.table().to_pylist():
        latent = fake(row["prompt_index"], row["candidate"]).latent
        assert torch.equal(torch.tensor(row["latent"]).view(row["latent_shape"]), latent)
    for (prompt, mine), (other, theirs) in zip(every.selected(), some.selected(), strict=True):
        assert prompt == other
        assert torch.equal(mine, theirs)
    assert every.summary() | {"path": ""} == some.summary() | {"path": ""}
    parts = list(every.parts(["prompt_index", "score"]))
    assert sum(part.num_rows for part in parts) == every.table(["score"]).num_rows
    assert parts[0].column_names == ["prompt_index", "score"]


def test_a_set_goes_on_only_as_it_was_begun(tmp_path: Path) -> None:
    build(tmp_path)
    with pytest.raises(UserError, match="all_latents is absent there and True here"):
        writer(tmp_path, all_latents=True)


def test_a_candidate_that_stopped_early_has_no_latent(tmp_path: Path) -> None:
    with writer(tmp_path, all_latents=True) as made:
        for candidate in pool():
            if candidate.index == 0:
                candidate = replace(candidate, steps=1, pruned=True)
            made.add(candidate)
    rows = FineTuningSet.open(tmp_path).table(["candidate", "latent"]).to_pylist()
    assert all((row["latent"] is None) == (row["candidate"] == 0) for row in rows)
