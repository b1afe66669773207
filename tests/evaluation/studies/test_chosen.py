"""What a study kept of its pools, against counting by hand."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mitune.core.errors import UserError
from mitune.evaluation.studies.baseline import rule_of
from mitune.evaluation.studies.chosen import chosen, markdown
from mitune.evaluation.studies.pools import scores_file
from mitune.evaluation.studies.stored import bytes_of
from mitune.worlds.known import WORLDS

WORLD = WORLDS["shapes-v1"]


def test_pools_are_judged_as_counted_by_hand(
    tmp_path: Path, exact_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = WORLD.first_prompts("train", 2)
    # Each prompt's three candidates: two right drawings and one of the other prompt.
    pictures = torch.cat(
        [
            WORLD.drawings(first, 2, 0),
            WORLD.drawings(second, 1, 0),
            WORLD.drawings(second, 2, 1),
            WORLD.drawings(first, 1, 1),
        ]
    )
    latents = torch.zeros(6, *exact_model.latent_shape)
    place = tmp_path / "seed-0" / "pools"
    place.mkdir(parents=True)
    columns = {
        "prompt": [first] * 3 + [second] * 3,
        "latent": bytes_of(latents),
    }
    pools = place / "guidance-1.parquet"
    pq.write_table(pa.table(columns), pools)
    scores = scores_file(pools, rule_of(WORLD.preset))
    scores.parent.mkdir()
    pq.write_table(pa.table({"score": [3.0, 2.0, 1.0, 1.0, 2.0, 3.0]}), scores)

    class Shows:
        latent_shape = exact_model.latent_shape

        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            return pictures

    monkeypatch.setattr(type(WORLD), "load", lambda self, **_: Shows())
    (row,) = [r for r in chosen(WORLD, tmp_path, keep=1) if r.category == "all"]
    assert row.pools == 2
    assert row.strict.mean == pytest.approx(2 / 3)
    assert row.kept.mean == 0.5  # a right one of the first pool, the wrong one of the second
    assert row.tau.mean == pytest.approx(0.0)  # the second ranks as much against as the first for
    assert row.tau_of_three.mean == pytest.approx(0.0)
    assert "| all | 2 | 0.667" in markdown([row])


def test_a_folder_without_pools_or_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no pools"):
        chosen(WORLD, tmp_path, keep=1)
    place = tmp_path / "seed-0" / "pools"
    place.mkdir(parents=True)
    pq.write_table(pa.table({"prompt": ["a"]}), place / "guidance-3.parquet")
    with pytest.raises(UserError, match="has no scores by"):
        chosen(WORLD, tmp_path, keep=1, guidance=3.0)
