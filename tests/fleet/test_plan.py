"""What a plan says, against sums made by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mitune.cli.program import main
from mitune.fleet.cost import Job, paper_cost, set_cost, stored_bytes, training_cost
from mitune.fleet.measure import denoiser_of
from mitune.fleet.rates import PAPER_MODEL, find_board


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    main(["plan", *words, "--json"])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_papers_hours_from_what_its_code_computes() -> None:
    """35 000 candidates x 50 steps x 2 passes: 3.5 million passes. Products: 385.897 GFLOP at
    19.5 TFLOP/s; convolutions: 418.361 GFLOP at 0.6 x 156 TFLOP/s."""
    built, trained = paper_cost(Job())
    assert built == pytest.approx(3.5e6 * (385.897 / 19500 + 418.361 / 93600) / 3600)
    assert built == pytest.approx(24, rel=0.05)  # the paper: roughly 24 hours
    assert trained == pytest.approx(120_000 * (3 * 385.897 / 19500 + 2 * 418.361 / 93600) / 3600)


def test_ours_on_the_board_that_was_measured() -> None:
    """docs/results.md: 14.12 candidates of 20 steps a second, the paper's set in 1.72 h."""
    cost = set_cost(Job(), PAPER_MODEL, find_board("h200"), None)
    assert cost.hours == pytest.approx(1.72, abs=0.01)
    small = set_cost(Job(prompts=1, candidates=1, steps=20), PAPER_MODEL, find_board("H200"), None)
    assert 1 / (3600 * small.hours) == pytest.approx(14.12, rel=0.01)
    assert small.kilowatt_hours == pytest.approx(49.1 / 3.6e6, rel=0.01)
    assert "measured" in cost.basis
    assert "assumed" in set_cost(Job(), PAPER_MODEL, find_board("A100"), None).basis


def test_costs_grow_with_what_is_asked() -> None:
    board, job = find_board("H100"), Job()
    one = set_cost(job, PAPER_MODEL, board, None).hours
    for change, factor in ({"rounds": 2}, 2), ({"draws": 50}, 2), ({"passes": 0.5}, 0.5):
        changed = set_cost(replace(job, **change), PAPER_MODEL, board, None)
        assert changed.hours == pytest.approx(factor * one)
    trained = training_cost(job, PAPER_MODEL, board).hours
    assert trained == pytest.approx(120_000 * 3 * 804.258e9 / (0.33 * 989e12) / 3600)
    assert stored_bytes(job, PAPER_MODEL) == 35_000 * 50 * 8 + 700 * 4 * 64 * 64 * 4


def test_operations_are_counted(exact_model) -> None:
    found = denoiser_of(exact_model, "tiny")
    assert found.flops > 0
    channels, height, width = exact_model.latent_shape
    assert found.latent == channels * height * width


def test_the_verb(capsys, tmp_path: Path) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("a red square\na blue square\n")
    plan = told(capsys, "--prompts", str(prompts), "--gpu", "A100", "--gpus", "4", "--price", "2")
    assert plan["job"]["prompts"] == 2
    first = plan["costs"][0]
    assert first["wall_hours"] == pytest.approx(first["hours"] / 4)
    assert first["cost"] == pytest.approx(2 * first["hours"])
    given = told(capsys, "--rate", "10", "--prompts", "72", "--candidates", "100")
    assert given["costs"][0]["hours"] == pytest.approx(7200 / 10 / 3600)
    assert len(given["costs"]) == 1  # of that device nothing is known for training


def test_measured_here(capsys) -> None:
    plan = told(capsys, "--model", "shapes-v1", "--measure", "--prompts", "10", "--steps", "2")
    assert plan["costs"][0]["hours"] > 0
    assert plan["costs"][0]["basis"].startswith("measured here")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--gpu", "RTX"], "device kind RTX is not known: expected one of A100"),
        (["--prompts", "0"], "prompts is 0"),
        (["--prompts", "nowhere.txt"], "nowhere.txt does not exist"),
        (["--gpus", "0"], "gpus is 0"),
        (["--passes", "1.5"], "passes is 1.5"),
        (["--draws", "-1"], "draws is -1"),
        (["--rate", "0"], "rate is 0"),
        (["--price", "-1"], "price is -1"),
        (["--rate", "1", "--measure"], "--rate and --measure"),
        (["--measure"], "--measure is given without --model"),
    ],
)
def test_mistakes_are_one_line(capsys, words, expected) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *words])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
