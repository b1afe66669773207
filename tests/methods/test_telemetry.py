"""What a build leaves about its rates, and what is read of it."""

import json
import sys
import types
from pathlib import Path

import pytest
import torch

from mitune.engine.request import EngineStats
from mitune.methods.build import build_set
from mitune.methods.telemetry import FOLDER, Telemetry, cost_of, told
from mitune.runtime import gpu_sensors

CPU = torch.device("cpu")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_every_so_often_and_one_at_the_end(tmp_path: Path) -> None:
    clock, stats = Clock(), EngineStats(seats=10, steps=8)
    with Telemetry(tmp_path, stats, CPU, every=30.0, clock=clock) as telemetry:
        for _ in range(7):
            clock.now += 10.0
            telemetry.candidate()
    ((first, second, last),) = told(tmp_path)
    assert [line["seconds"] for line in (first, second, last)] == [30.0, 60.0, 70.0]
    assert [line["candidates"] for line in (first, second, last)] == [3, 6, 7]
    assert all(line["candidates_per_s"] == 0.1 for line in (first, second, last))
    assert last["occupancy"] == 0.8


def test_costs_are_summed_over_shares_and_processes(tmp_path: Path) -> None:
    clock, stats = Clock(), EngineStats(seats=4, steps=3)
    for seconds in (100.0, 300.0):  # two shares of this process
        with Telemetry(tmp_path, stats, CPU, every=1e9, clock=clock) as telemetry:
            for _ in range(10):
                clock.now += seconds / 10
                telemetry.candidate()
    line = {"share": 1, "seconds": 3200.0, "candidates": 340, "occupancy": 1.0, "peak_bytes": 5}
    hot = {**line, "watts": 500.0}
    half = '{"share": 1, "sec'
    (tmp_path / FOLDER / "other-1.jsonl").write_text(f"{json.dumps(hot)}\n{half}")
    found = cost_of(tmp_path)
    assert found["processes"] == 2
    assert found["device_hours"] == pytest.approx(1.0)
    assert found["candidates_per_s"] == pytest.approx(360 / 3600)
    assert found["occupancy"] == pytest.approx((20 * 0.75 + 340) / 360)
    assert found["kilowatt_hours"] == pytest.approx(0.5)


def test_nothing_is_known_of_a_set_without_metrics(tmp_path: Path) -> None:
    assert cost_of(tmp_path) == {}


def test_a_build_leaves_them_and_a_folder_that_refuses_them_ends_no_run(exact_model, tmp_path):
    settings = {"candidates": 3, "keep": 1, "steps": 3, "slots": 4}
    build_set(exact_model, ["a red circle", "a blue circle"], tmp_path / "a", **settings)
    found = cost_of(tmp_path / "a")
    assert found["candidates_per_s"] > 0
    assert 0 < found["occupancy"] <= 1
    (tmp_path / "b").mkdir()
    build_set(exact_model, ["a red circle"], tmp_path / "b", **settings)
    (tmp_path / "b" / "parts" / "part-00000.parquet").unlink()
    for path in (tmp_path / "b" / FOLDER).iterdir():
        path.unlink()
    (tmp_path / "b" / FOLDER).rmdir()
    (tmp_path / "b" / FOLDER).write_bytes(b"in the way")
    assert build_set(exact_model, ["a red circle"], tmp_path / "b", **settings).complete
    assert cost_of(tmp_path / "b") == {}


def test_sensors_that_a_board_hides_are_left_out(monkeypatch) -> None:
    def fail(*_):
        raise RuntimeError("hidden")

    nvml = types.ModuleType("pynvml")
    nvml.NVMLError = RuntimeError
    nvml.NVML_CLOCK_SM, nvml.NVML_TEMPERATURE_GPU = 1, 0
    nvml.nvmlInit = lambda: None
    nvml.nvmlDeviceGetHandleByPciBusId = lambda address: address
    nvml.nvmlDeviceGetPowerUsage = lambda handle: 650_500
    nvml.nvmlDeviceGetClockInfo = lambda handle, which: 1755
    nvml.nvmlDeviceGetTemperature = fail
    nvml.nvmlDeviceGetUtilizationRates = lambda handle: types.SimpleNamespace(gpu=97)
    nvml.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(used=2**33)
    nvml.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 4
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = types.SimpleNamespace(pci_domain_id=0, pci_bus_id=0x4B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    assert gpu_sensors.read_sensors(torch.device("cuda", 0)) == {
        "watts": 650.5,
        "sm_mhz": 1755,
        "gpu_busy": 0.97,
        "gpu_bytes": 2**33,
        "throttled": "0x4",
    }
    assert gpu_sensors.read_sensors(CPU) == {}
    nvml.nvmlDeviceGetHandleByPciBusId = fail
    assert gpu_sensors.read_sensors(torch.device("cuda", 0)) == {}
