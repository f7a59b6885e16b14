"""Python, packages, CUDA: do they fit together?"""

import re
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from mypt_dist.installed import installed_version
from mypt_dist.run.doctor.check import LOADING_S, Check, Result, fail, ok, skip, warn

LOWEST_PYTHON = (3, 11)

BECAUSE = {
    "torch": "older ones execute code from files that they are told not to trust",
    "accelerate": "older ones shard on CPUs and read launch files differently",
    "deepspeed": "older ones do not know this torch",
    "mlflow": "older servers can be read and written without a password",
}
"""Why a package must not be older, where it is not plain."""

DRIVER_OF = {11: 450, 12: 525, 13: 580}
"""The oldest NVIDIA driver for each major version of CUDA."""

_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)>=([0-9.]+)")


def python(version: Sequence[int]) -> Result:
    """``version``: major, minor and so on."""
    text = ".".join(map(str, version[:3]))
    if tuple(version[:2]) < LOWEST_PYTHON:
        return fail(text, f"use Python {'.'.join(map(str, LOWEST_PYTHON))} or newer")
    return ok(text)


def packages(required: Sequence[str], installed: Mapping[str, str | None]) -> Result:
    """``required`` as in pyproject.toml; ``installed`` versions by name, None for what is missing."""
    problems, seen = [], []
    for requirement in required:
        match = _REQUIREMENT.match(requirement)
        if match is None or "extra ==" in requirement:
            continue
        name, lowest = match[1], match[2]
        version = installed.get(name)
        if version is None:
            problems.append(f"{name} is missing")
        elif _numbers(version) < _numbers(lowest):
            why = f" ({BECAUSE[name]})" if name in BECAUSE else ""
            problems.append(f"{name} {version} is older than {lowest}{why}")
        elif name in BECAUSE:
            seen.append(f"{name} {version}")
    if problems:
        return fail("; ".join(problems), "install again: pip install -c constraints.txt mypt-dist")
    return ok(", ".join(seen)) if seen else skip("mypt-dist is not installed, so its requirements are unknown")


def cuda(built_for: str | None, driver: str | None, usable: int, present: int | None) -> Result:
    """The CUDA that torch was built for, NVIDIA's driver, and how many GPUs torch can use of those that are there."""
    if not present:
        return skip("no NVIDIA GPU")
    if built_for is None:
        return fail(f"{present} GPUs, but torch is built for CPUs", "install a torch that is built for CUDA")
    lowest = DRIVER_OF.get(int(built_for.partition(".")[0]))
    if driver is not None and lowest is not None and _numbers(driver)[0] < lowest:
        return fail(
            f"torch is built for CUDA {built_for}, the driver is {driver}",
            f"install driver {lowest} or newer, or a torch that is built for an older CUDA",
        )
    if usable < present:
        return fail(f"torch can use {usable} of {present} GPUs", "see nvidia-smi and CUDA_VISIBLE_DEVICES")
    return ok(f"CUDA {built_for}, driver {driver or 'unknown'}, {present} GPUs")


def nccl(version: Sequence[int] | None) -> Result:
    """NCCL's version, None if torch has none."""
    if version is None:
        return skip("torch has no NCCL, or there is no GPU")
    text = ".".join(map(str, version))
    if tuple(version) < (2, 18):
        return warn(text, "use 2.18 or newer: older ones hang where newer ones report a lost rank")
    return ok(text)


def version_checks(present: int | None) -> list[Check]:
    """``present``: GPUs that the driver lists."""
    return [
        Check("python", "syntax and library errors in the middle of a run", lambda: python(sys.version_info[:3])),
        Check("packages", "combinations that nobody has tried", lambda: packages(*_installed())),
        Check("cuda", "a run that computes on the CPU without a word", lambda: cuda(*_cuda(), present), LOADING_S),
        Check("nccl", "hangs in collectives", lambda: nccl(_nccl(present)), LOADING_S),
    ]


def driver_version(text: str) -> str | None:
    """Out of ``/proc/driver/nvidia/version``."""
    match = re.search(r"\s(\d{3,}\.\d+(?:\.\d+)?)\s", text)
    return match[1] if match else None


def _installed() -> tuple[list[str], dict[str, str | None]]:
    try:
        required = metadata.requires("mypt-dist") or []
    except metadata.PackageNotFoundError:
        return [], {}
    names = [match[1] for text in required if (match := _REQUIREMENT.match(text))]
    return required, {name: installed_version(name) for name in names}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _cuda() -> tuple[str | None, str | None, int]:
    import torch  # noqa: PLC0415 - only this check needs it

    try:
        driver = driver_version(Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        driver = None
    return torch.version.cuda, driver, torch.cuda.device_count() if torch.cuda.is_available() else 0


def _nccl(present: int | None) -> tuple[int, ...] | None:
    import torch  # noqa: PLC0415 - only this check needs it

    if not present or not torch.distributed.is_nccl_available():
        return None
    version: tuple[int, ...] = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    return version
