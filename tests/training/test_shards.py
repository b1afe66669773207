"""Full fine-tuning in two processes, by FSDP2, against one."""

import shutil
from pathlib import Path

import pytest
from outcome import distance
from test_processes import run
from tiny_model import TinyModel, TinySet, config, full_config, refusal

from mitune.adapters.adapter_file import FULL as WEIGHTS
from mitune.training.loop import tune
from mitune.training.processes import Processes
from mitune.training.shards import check

FULL = f"unet/{WEIGHTS}"
MOMENTS = "checkpoints/step-000006/optimizer.safetensors"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By one process; by two; by two that were stopped after four steps, of which three are in a
    checkpoint."""
    folder = tmp_path_factory.mktemp("shards")
    tune(TinyModel(), TinySet(), folder / "one", full_config())
    assert run(folder / "two", 2, gradient="full") == 0
    assert run(folder / "stopped", 2, gradient="full", stop=4) != 0
    assert not (folder / "stopped" / FULL).exists()
    return folder


def test_two_processes_make_the_weights_that_one_makes(runs: Path) -> None:
    assert distance(runs / "one", runs / "two", FULL) < 1e-6
    assert distance(runs / "one", runs / "two", MOMENTS) < 1e-6
    lines = [(runs / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(lines[0]) == len(lines[1]) == 6


def test_a_checkpoint_of_two_goes_on_in_two_and_in_one(runs: Path, tmp_path: Path) -> None:
    for name in ("1", "2"):
        shutil.copytree(runs / "stopped", tmp_path / name)
    assert run(tmp_path / "2", 2, gradient="full") == 0
    tune(TinyModel(), TinySet(), tmp_path / "1", full_config())
    for file in (FULL, MOMENTS):
        assert distance(tmp_path / "2", runs / "two", file) == 0
        assert distance(tmp_path / "1", runs / "one", file) < 1e-6


def test_what_processes_cannot_share_is_refused() -> None:
    two, full = Processes(0, 2), config(method="full")
    assert check(full, two)
    assert not check(full, Processes())
    assert not check(config(), two)
    assert "expected a multiple of 2" in refusal(check, config(method="full", batch=7), two)
    assert "expected a number" in refusal(check, config(method="full", micro_batch="auto"), two)
