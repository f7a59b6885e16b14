"""How busy is this machine? One snapshot at a time, under the names that MLflow's interface groups."""

import importlib
import importlib.util
import logging
from pathlib import Path
from typing import Any

import psutil

log = logging.getLogger(__name__)

_MB = 1e6
"""MLflow's megabyte."""


class SystemSampler:
    """Reads counters of the kernel; never waits for a measuring interval."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is on the disk to watch. Utilisation is measured from here to the first `sample`."""
        self._folder = folder
        self._process = psutil.Process()
        self._process.cpu_percent()
        psutil.cpu_percent()
        self._received, self._transmitted = _network()
        self._nvml, self._gpus = _gpus()

    def sample(self) -> dict[str, float]:
        """``system/…`` values since the last call: percent, and megabytes of 10⁶ bytes.

        What the machine does not offer is absent: a GPU, NVIDIA's management library, network counters.
        """
        memory = psutil.virtual_memory()
        disk = psutil.disk_usage(str(self._folder))
        received, transmitted = _network()
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / _MB,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / _MB,
            "disk_available_megabytes": disk.free / _MB,
            "network_receive_megabytes": (received - self._received) / _MB,
            "network_transmit_megabytes": (transmitted - self._transmitted) / _MB,
            "process_memory_usage_megabytes": self._process.memory_info().rss / _MB,
            "process_cpu_utilization_percentage": self._process.cpu_percent(),
        }
        for index, gpu in enumerate(self._gpus):
            found |= {f"gpu_{index}_{name}": value for name, value in self._sample_gpu(gpu).items()}
        return {f"system/{name}": round(value, 1) for name, value in found.items()}

    def _sample_gpu(self, gpu: Any) -> dict[str, float]:
        found: dict[str, float] = {}
        for read in (_gpu_memory, _gpu_utilization, _gpu_power):
            try:
                found |= read(self._nvml, gpu)
            except self._nvml.NVMLError as error:
                log.debug("%s: %s", read.__name__, error)  # a virtual GPU does not know its power, for one
        return found


def _gpu_memory(nvml: Any, gpu: Any) -> dict[str, float]:
    memory = nvml.nvmlDeviceGetMemoryInfo(gpu)
    return {
        "memory_usage_percentage": 100 * memory.used / memory.total,
        "memory_usage_megabytes": memory.used / _MB,
    }


def _gpu_utilization(nvml: Any, gpu: Any) -> dict[str, float]:
    return {"utilization_percentage": float(nvml.nvmlDeviceGetUtilizationRates(gpu).gpu)}


def _gpu_power(nvml: Any, gpu: Any) -> dict[str, float]:
    milliwatts, limit = nvml.nvmlDeviceGetPowerUsage(gpu), nvml.nvmlDeviceGetEnforcedPowerLimit(gpu)
    return {"power_usage_watts": milliwatts / 1e3, "power_usage_percentage": 100 * milliwatts / limit}


def _network() -> tuple[int, int]:
    """Bytes received and sent by this machine since its start."""
    counters = psutil.net_io_counters()
    return (counters.bytes_recv, counters.bytes_sent) if counters else (0, 0)


def _gpus() -> tuple[Any, list[Any]]:
    """NVIDIA's management library and a handle for each GPU; none where it or a driver is missing."""
    if importlib.util.find_spec("pynvml") is None:
        return None, []
    nvml = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
        return nvml, [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        log.debug("no GPU metrics: %s", error)
        return nvml, []
