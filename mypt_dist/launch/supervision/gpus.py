"""How many GPUs are there now? Asked of the driver's files: a library would have to start on broken GPUs."""

import re
from collections.abc import Mapping
from pathlib import Path


def visible_gpus(environ: Mapping[str, str], root: Path = Path("/")) -> int | None:
    """NVIDIA devices that ranks of this machine can see. None: there is no driver to tell."""
    present = _present(root)
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if present is None or chosen is None:
        return present
    # CUDA stops reading at the first entry that names no device.
    usable = 0
    for entry in chosen.split(","):
        if not entry.strip() or entry.strip().startswith("-") or _beyond(entry.strip(), present):
            break
        usable += 1
    return min(usable, present)


def _beyond(entry: str, present: int) -> bool:
    return entry.isdigit() and int(entry) >= present


def _present(root: Path) -> int | None:
    nodes = len([path for path in (root / "dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)])
    listed = root / "proc/driver/nvidia/gpus"
    if not listed.is_dir():
        return nodes or None
    present = sum(1 for _ in listed.iterdir())
    # A container may list all GPUs of its host, and have the devices of those that it was given.
    return min(present, nodes) if nodes else present
