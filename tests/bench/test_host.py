"""The host extension: what it sees of a GPU, here through an NVML that is not the real one."""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mitune.bench.machine import Look, energy_of
from mitune.core import host as host_module
from mitune.core.host import host, why_not

_host = host()
pytestmark = pytest.mark.skipif(_host is None, reason="the host extension is not built")
ADDRESS = "00000000:4B:00.0"


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    source = Path(__file__).with_name("fake_nvml.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


def looks_of(nvml: str, wait: Callable[[float], None]) -> tuple[Any, list[Look]]:
    """A stopped sampler that looked every 0.01 s while ``wait`` took its seconds, and its looks: at
    least 3, however long the machine needs for them."""
    seconds = 0.2
    while True:
        sampler = _host.Sampler(ADDRESS, 0.01, library=nvml)
        wait(seconds)
        looks = [Look(*row) for row in sampler.stop()]
        if len(looks) >= 3:
            return sampler, looks
        assert seconds < 30, f"{len(looks)} looks in {seconds} s"
        seconds *= 2


def busy(seconds: float) -> None:
    """Hold the interpreter lock all along."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_the_sampler_looks_until_it_is_stopped(nvml: str) -> None:
    """In order, the time of each look and what the board says; -1 for what it does not."""
    sampler, looks = looks_of(nvml, time.sleep)
    first = looks[0].watts  # the library counts its looks
    assert [look.watts for look in looks] == [first + 100 * i for i in range(len(looks))]
    assert {look[2:] for look in looks} == {(1755.0, 30.0, -1.0)}
    seconds = [look.seconds for look in looks]
    assert seconds == sorted(seconds)
    assert sampler.stop() == [list(look) for look in looks]


def test_it_looks_while_python_is_busy_and_once_however_short_the_run(nvml: str) -> None:
    sampler = _host.Sampler(ADDRESS, 60.0, library=nvml)
    assert len(sampler.stop()) == 1
    looks_of(nvml, busy)


def test_stopping_does_not_hold_pythons_lock(nvml: str) -> None:
    sampler = _host.Sampler(ADDRESS, 0.001, library=nvml)
    thread = threading.Thread(target=sampler.stop)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("address", "interval", "library", "words"),
    [
        (ADDRESS, 0.1, "/nowhere/libnvidia-ml.so.1", "cannot be loaded"),
        ("00000000:00:00.0", 0.1, None, "no GPU at 00000000:00:00.0"),
        (ADDRESS, 0.1, "libm.so.6", "NVML has no nvmlInit_v2"),
    ],
)
def test_a_gpu_that_is_not_there(
    nvml: str, address: str, interval: float, library: str | None, words: str
) -> None:
    with pytest.raises(RuntimeError, match=words):
        _host.Sampler(address, interval, library=library or nvml)


def test_an_interval_of_nothing(nvml: str) -> None:
    with pytest.raises(ValueError, match="above 0 seconds"):
        _host.Sampler(ADDRESS, 0.0, library=nvml)


def test_energy_is_the_area_under_the_watts() -> None:
    curve = [Look(t, watts, 0, 0, 0) for t, watts in ((0.0, 100.0), (1.0, 300.0), (1.5, 300.0))]
    assert energy_of(curve) == 200.0 + 150.0
    assert energy_of(curve[:1]) is None
    assert energy_of([*curve, Look(2.0, -1.0, 0, 0, 0)]) is None


def test_without_it_all_works_and_the_doctor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from mitune.runtime.malloc import give_back_freed_memory, keep_freed_memory

    with_it = keep_freed_memory()
    assert isinstance(give_back_freed_memory(), bool)
    monkeypatch.setattr(host_module, "host", lambda: None)
    monkeypatch.setattr("mitune.runtime.malloc.host", lambda: None)
    assert keep_freed_memory() == with_it
    assert isinstance(give_back_freed_memory(), bool)
    assert "not built: install mitune from source with pybind11" in (why_not() or "")
