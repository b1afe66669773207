"""Studies that compare arms, each as small as can be, on the first edition's model."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from mitune.core.errors import UserError
from mitune.evaluation.studies import comparison, drawn, pools, tuned
from mitune.evaluation.studies.arm import Arm
from mitune.evaluation.studies.catalogue import ARMS, STUDIES, _star
from mitune.evaluation.studies.compared import BASE, DRAWINGS
from mitune.evaluation.studies.plan import Plan
from mitune.runtime.prepared import Prepared
from mitune.worlds.shapes_v1 import oracle

WAYS = [study for study in ARMS if study.name in ("estimators", "real", "rounds", "star")]
"""Studies that together take every way through choice and tuning; the others' arms differ in
numbers."""


def tiny(out: Path, **changes: Any) -> Plan:
    plan = Plan(
        out=out,
        world="shapes-v1",
        seeds=2,
        prompts=2,
        test_prompts=3,
        images=2,
        candidates=4,
        keep=2,
        steps=3,
        iterations=1,
        processes=1,
        quiet=True,
    )
    return replace(plan, **changes)


@pytest.mark.usefixtures("quick_preset")
def test_a_study_leaves_tables_data_and_a_picture_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tiny(tmp_path)
    result = STUDIES["selection"](plan)
    out = capsys.readouterr().out
    assert "| mi |" in out
    assert "less control" in out
    rows = {(r["model"], r["category"], r["metric"]): r for r in result["rows"]}
    assert {model for model, _, _ in rows} == {"base", "mi", "random"}
    pictures = pq.read_table(tmp_path / "pictures.parquet").to_pylist()
    assert {p["model"] for p in pictures} == {"base", "mi", "random", "drawings"}
    mine = [p["graded"] for p in pictures if p["model"] == "mi"]
    assert len(mine) == 2 * 3 * 2
    assert rows["mi", "all", "graded"]["value"] == pytest.approx(sum(mine) / len(mine))
    gain = rows["mi", "all", "graded"]["value"] - rows["random", "all", "graded"]["value"]
    assert rows["mi", "all", "graded"]["over_control"] == pytest.approx(gain)
    assert all(p["strict"] == 1 for p in pictures if p["model"] == "drawings")
    assert rows["base", "all", "frechet"]["value"] > 0
    for name in ("plot.png", "ranking.png", "base_and_tuned.png"):
        assert (tmp_path / name).stat().st_size > 1000
    assert "mi less base = " in out
    assert "less its control = " in out

    def fail(*_: object, **__: object) -> None:
        raise AssertionError

    made = (tmp_path / "table.md").read_text()
    for module, name in ((drawn, "draw"), (drawn, "judged")):
        monkeypatch.setattr(module, name, fail)
    STUDIES["selection"](plan)
    assert (tmp_path / "table.md").read_text() == made
    with pytest.raises(UserError, match="other settings"):
        STUDIES["selection"](replace(plan, images=3))
    capsys.readouterr()


@pytest.mark.usefixtures("quick_preset")
@pytest.mark.parametrize("study", WAYS, ids=lambda study: study.name)
def test_nothing_that_selects_or_trains_reads_the_oracle(
    study: comparison.ArmStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the oracle was read")

    for name in ("read", "judge", "score"):
        monkeypatch.setattr(oracle, name, fail)
    plan = tiny(tmp_path, prompts=2, candidates=2, keep=2, steps=2)
    model = plan.load()
    shop = tuned.Workshop(
        model=model,
        folder=tmp_path,
        seed=0,
        prompts=plan.texts("train"),
        rests=plan.of.rests,
        drawings=plan.of.drawings,
        runtime=plan.runtime,
        progress=lambda what, done, of: None,
    )
    if study.name == "star":  # the first edition's one category
        own = study.arms

        def arms(plan: Plan) -> list[Arm]:
            return [replace(arm, shown=arm.shown and "pair") for arm in own(plan)]

        study = replace(study, arms=arms)
    adapters = comparison._adapters(study, plan, shop)
    assert list(adapters) == [name for arm in study.arms(plan) for name in arm.names]
    assert all(path.exists() for path in adapters.values())
    with pytest.raises(AssertionError, match="the oracle was read"):
        plan.of.judge(["a red circle"], torch.rand(1, 3, 32, 32))


@pytest.mark.usefixtures("quick_preset")
def test_a_base_that_was_tuned_on_drawings_is_compared_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"seeds": 1, "prompts": 1, "test_prompts": 1, "images": 2, "candidates": 2, "keep": 1}
    result = STUDIES["star"](tiny(tmp_path, world="shapes", **few))
    models = list(dict.fromkeys(row["model"] for row in result["rows"]))
    assert models == ["base", *(arm.name for arm in _star(tiny(tmp_path)))]
    capsys.readouterr()


def test_what_selects_and_trains_does_not_even_import_an_oracle() -> None:
    code = (
        "import sys, mitune.evaluation.studies.tuned as t; "
        "print([m for m in sys.modules if m.startswith('mitune.worlds') and 'oracle' in m], "
        "'mitune.worlds.known' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split("]")[0] == "["


@pytest.mark.usefixtures("quick_preset")
def test_methods_at_sampling_are_compared_on_the_same_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = STUDIES["sampling"](tiny(tmp_path, seeds=1, test_prompts=2, images=1))
    models = {row["model"] for row in result["rows"]}
    assert {"base", "Attend-and-Excite", "information 0.01"} < models
    assert "What do methods at sampling change?" in capsys.readouterr().out


def test_maps_show_a_row_for_each_prompt_and_a_map_for_each_phrase(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = STUDIES["maps"](tiny(tmp_path, test_prompts=2))
    assert [row["prompt"] for row in result["rows"]][::2] == list(tiny(tmp_path).texts("test"))[:2]
    assert (tmp_path / "maps.png").stat().st_size > 1000
    assert "nats" in capsys.readouterr().out


def test_an_arm_is_compared_with_the_same_round_of_its_control() -> None:
    plan = tiny(Path())
    arms = {study.name: study.arms(plan) for study in ARMS}
    controls = comparison.controlled(arms["rounds"])
    assert (controls["mi R=2"], controls["random R=2"]) == ("random R=2", None)
    shorter = [replace(arm, rounds=1) if arm.rule is None else arm for arm in arms["rounds"]]
    assert comparison.controlled(shorter)["mi R=3"] == "random"
    assert comparison.controlled(arms["star"])["tuned on drawings"] is None


@pytest.mark.parametrize("study", ARMS, ids=lambda study: study.name)
def test_arms_have_names_of_their_own_and_controls_that_exist(study: comparison.ArmStudy) -> None:
    arms = study.arms(tiny(Path(), candidates=100))
    names = [name for arm in arms for name in arm.names]
    assert not {BASE, DRAWINGS} & set(names)
    names = [arm.name for arm in arms]
    assert len(set(names)) == len(names) > 1
    assert all(arm.control in (None, *names) for arm in arms)
    assert all(arm.keep <= arm.candidates <= 100 for arm in arms)
    assert any(arm.rule is None for arm in arms)


def test_arms_of_one_name_are_one_arm_in_all_studies() -> None:
    """Studies of one work folder keep its adapters below its name."""
    known: dict[str, Arm] = {}
    for study in ARMS:
        for arm in study.arms(tiny(Path(), candidates=100)):
            same = replace(arm, control=None, rounds=min(arm.rounds, 1))
            assert known.setdefault(arm.name, same) == same


@pytest.mark.usefixtures("quick_preset")
def test_studies_of_one_work_folder_share_what_is_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tiny(tmp_path / "one", seeds=1, work=tmp_path / "work")
    STUDIES["selection"](plan)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.parquet")}
    assert any("pools" in path.parts for path in made)
    assert not list((tmp_path / "one").glob("seed-*"))

    def fail(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(pools, "draw_candidates", fail)
    STUDIES["dropout"](replace(plan, out=tmp_path / "other"))
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert (tmp_path / "one" / "table.md").read_text() != (
        tmp_path / "other" / "table.md"
    ).read_text()
    capsys.readouterr()


@pytest.mark.usefixtures("quick_preset")
def test_a_backend_and_a_precision_are_those_of_all_that_a_study_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: set[str] = set()
    begin = Prepared.__init__

    def prepared(self: Any, model: Any, backend: str, *rest: Any) -> None:
        seen.add(backend)
        begin(self, model, "eager", *rest)

    monkeypatch.setattr(Prepared, "__init__", prepared)
    plan = tiny(tmp_path, seeds=1, backend="inductor", precision="bf16-mixed")
    assert plan.tuning.backend == "inductor"
    monkeypatch.setattr(Plan, "tuning", tiny(tmp_path).tuning)
    STUDIES["selection"](plan)
    assert seen == {"inductor"}
    files = list(tmp_path.rglob("guidance-*.parquet")) + list(tmp_path.rglob("mi at *.parquet"))
    assert len(files) == 2
    for file in files:
        assert b'"precision": "bf16-mixed"' in pq.read_metadata(file).metadata[b"mitune.study"]
    with pytest.raises(UserError, match="other settings"):
        STUDIES["selection"](replace(plan, precision="float32"))
    capsys.readouterr()


def test_a_category_that_the_world_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="about spatial prompts, and the world has pair"):
        STUDIES["star"](tiny(tmp_path, seeds=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world": "moon"}, "world 'moon' is not known"),
        ({"images": 0}, "images is 0"),
        ({"keep": 9}, "keep is 9"),
        ({"backend": "tensorrt"}, "backend 'tensorrt' is not known: choose one of eager, inductor"),
        ({"precision": "int8"}, "precision 'int8' is not known"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny(Path(), **changes)


def test_the_command_line_lists_every_study() -> None:
    from typing import get_args

    from mitune.cli.commands.study import Name

    assert set(get_args(Name)) == set(STUDIES)
