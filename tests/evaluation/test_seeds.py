"""Seeds side by side: what comes back, and that nothing stays behind."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import seed_work
import torch

from mitune.core.errors import UserError
from mitune.evaluation.seeds import each_seed, processes


def test_results_are_in_the_seeds_order_and_each_process_has_one_thread():
    made = each_seed(seed_work.tell, 3, 2)
    assert [seed for seed, _, _ in made] == [0, 1, 2]
    assert os.getpid() not in {pid for _, pid, _ in made}
    assert {threads for _, _, threads in made} == {1}


def test_one_at_a_time_needs_no_process():
    assert {pid for _, pid, _ in each_seed(seed_work.tell, 2, 1)} == {os.getpid()}


def test_how_many(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert [processes(None, 2), processes(None, 9), processes(3, 9), processes(3, 2)] == [
        2,
        4,
        3,
        2,
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert processes(None, 9) == 1
    with pytest.raises(UserError, match="processes is 0: expected at least 1"):
        processes(0, 2)
    with pytest.raises(UserError, match="seeds is 0: expected at least 1"):
        processes(None, 0)


def test_a_mistake_ends_the_others(tmp_path):
    with pytest.raises(UserError, match="seed 0 is wrong: expected another"):
        each_seed(partial(seed_work.fail_first, tmp_path), 2, 2)
    (other,) = tmp_path.iterdir()
    assert not alive(int(other.name))


def test_one_that_is_killed_is_said():
    with pytest.raises(UserError, match="the process of a seed was killed"):
        each_seed(seed_work.killed, 2, 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_none_outlives_the_one_that_started_them(tmp_path, number):
    parent = subprocess.Popen(
        [sys.executable, seed_work.__file__, str(tmp_path)], stderr=subprocess.DEVNULL
    )
    until(lambda: len(list(tmp_path.iterdir())) == 2)
    parent.send_signal(number)
    assert parent.wait(timeout=60) != 0
    until(lambda: not any(alive(int(file.name)) for file in tmp_path.iterdir()))


def until(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # ended, and only not yet asked for
