"""The machine's counters under MLflow's names, with whatever it lacks left out."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mypt_dist.tracking.mlflow_sender.payload import safe_name
from mypt_dist.tracking.system import SystemSampler

ALWAYS = {
    "system/cpu_utilization_percentage",
    "system/system_memory_usage_megabytes",
    "system/system_memory_usage_percentage",
    "system/disk_usage_percentage",
    "system/disk_usage_megabytes",
    "system/disk_available_megabytes",
    "system/network_receive_megabytes",
    "system/network_transmit_megabytes",
    "system/process_memory_usage_megabytes",
    "system/process_cpu_utilization_percentage",
}


class NVMLError(Exception):
    pass


class FakeNvml:
    """Two GPUs, of which the second does not know its power; or no driver."""

    NVMLError = NVMLError

    def __init__(self, *, driver: bool = True) -> None:
        self._driver = driver

    def nvmlInit(self) -> None:
        if not self._driver:
            raise NVMLError("driver not loaded")

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> Any:
        return SimpleNamespace(used=20e9, total=80e9)

    def nvmlDeviceGetUtilizationRates(self, gpu: int) -> Any:
        return SimpleNamespace(gpu=97)

    def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:
        if gpu == 1:
            raise NVMLError("not supported")
        return 350_000

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: int) -> int:
        return 700_000


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name == "pynvml" else real(name))
    return monkeypatch


def test_a_snapshot_has_mlflows_names_and_sensible_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = SystemSampler(tmp_path).sample()
    assert set(found) == ALWAYS
    assert all(isinstance(value, float) and value >= 0 for value in found.values())
    assert found["system/process_memory_usage_megabytes"] > 1
    assert 0 < found["system/system_memory_usage_percentage"] < 100
    assert all(safe_name(name) == name for name in found)


def test_gpus_are_listed_and_what_one_does_not_know_is_left_out(nvml: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvml.setitem(sys.modules, "pynvml", FakeNvml())  # type: ignore[arg-type]
    found = SystemSampler(tmp_path).sample()
    gpus = {name.removeprefix("system/gpu_"): value for name, value in found.items() if name.startswith("system/gpu_")}
    assert gpus == {
        "0_memory_usage_percentage": 25.0,
        "0_memory_usage_megabytes": 20_000.0,
        "0_utilization_percentage": 97.0,
        "0_power_usage_watts": 350.0,
        "0_power_usage_percentage": 50.0,
        "1_memory_usage_percentage": 25.0,
        "1_memory_usage_megabytes": 20_000.0,
        "1_utilization_percentage": 97.0,
    }


def test_a_machine_without_a_driver_has_no_gpus(nvml: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvml.setitem(sys.modules, "pynvml", FakeNvml(driver=False))  # type: ignore[arg-type]
    assert set(SystemSampler(tmp_path).sample()) == ALWAYS


def test_a_machine_without_network_counters_is_sampled_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.net_io_counters", lambda: None)
    assert SystemSampler(tmp_path).sample()["system/network_receive_megabytes"] == 0.0
