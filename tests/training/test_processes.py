"""Two processes under torchrun against one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nursery import run_script
from safetensors.torch import load_file
from tiny_model import TinyModel, TinySet, config

from mitune.adapters.adapter_file import FILE
from mitune.core.errors import UserError
from mitune.training.loop import tune
from mitune.training.processes import Processes, joined

HERE = Path(__file__).parent


def run(out: Path, processes: int, batch: int = 8, gradient: str = "merged", stop: int = 0) -> int:
    return run_script("parallel_run.py", [str(out), str(batch), gradient, str(stop)], processes)


def test_torchrun_itself_starts_them(tmp_path):
    """All others here are forked, in the environment that torchrun sets."""
    arguments = [str(HERE / "parallel_run.py"), str(tmp_path / "2"), "1", "merged", "0"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *launcher, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert (tmp_path / "2" / FILE).is_file()


@pytest.mark.parametrize(("batch", "gradient"), [(7, "peft"), (1, "merged")])
def test_two_processes_make_the_adapter_that_one_makes(tmp_path, batch, gradient):
    """Also of a batch that does not divide, and where one of them has no sample."""
    tune(TinyModel(), TinySet(), tmp_path / "1", config(batch=batch, gradient=gradient))
    assert run(tmp_path / "2", 2, batch, gradient) == 0
    one, two = (load_file(tmp_path / str(n) / FILE) for n in (1, 2))
    assert one.keys() == two.keys()
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-5
    lines = [(tmp_path / str(n) / "metrics.jsonl").read_text().splitlines() for n in (1, 2)]
    assert len(lines[0]) == len(lines[1]) == 6


def test_two_processes_go_on_where_two_were_stopped(tmp_path):
    assert run(tmp_path / "straight", 2) == 0
    assert run(tmp_path / "stopped", 2, stop=4) != 0
    assert not (tmp_path / "stopped" / FILE).exists()
    assert run(tmp_path / "stopped", 2) == 0
    one, two = (load_file(tmp_path / name / FILE) for name in ("straight", "stopped"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_shares_are_the_batch():
    positions = torch.arange(7)
    parts = [Processes(rank, 3).part(positions) for rank in range(3)]
    assert torch.equal(torch.cat(parts), positions)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_environment_that_is_none_of_torchruns_says_so(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(UserError, match="start them with torchrun"),
        joined(torch.device("cpu")),
    ):
        raise AssertionError("entered")
