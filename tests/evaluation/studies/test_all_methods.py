"""The study of all methods, as small as can be, on the first edition's model."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mitune.evaluation.studies import methods
from mitune.evaluation.studies.catalogue import STUDIES
from mitune.evaluation.studies.methods import NEEDS
from mitune.evaluation.studies.plan import Plan


@pytest.mark.usefixtures("quick_preset")
def test_every_method_is_in_the_table_with_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(methods, "_THRESHOLD", -1.0)  # three steps draw nothing that is right
    plan = Plan(
        out=tmp_path,
        world="shapes-v1",
        seeds=1,
        prompts=2,
        test_prompts=2,
        images=1,
        candidates=3,
        keep=1,
        steps=3,
        iterations=1,
        use_guidance=2.0,
        processes=1,
        quiet=True,
    )
    result = STUDIES["methods"](plan)
    out = capsys.readouterr().out
    assert {row["model"] for row in result["rows"]} == {"base", *NEEDS}
    assert "| GORS | **yes, the oracle** |" in out
    assert "| MI-Tune R=2 | no | nothing | 1 | 2 times:" in out
    drawn = {
        name: pq.read_table(tmp_path / "seed-0" / "pictures" / f"{name} at 2.parquet")
        for name in ("base", *NEEDS)
    }
    base = drawn.pop("base")
    for name, table in drawn.items():
        assert table["prompt"].equals(base["prompt"]), name
        assert not table["latent"].equals(base["latent"]), name
