"""What folders and files of a checkpoint are called, and which names a manifest may list."""

import re
from dataclasses import dataclass
from pathlib import Path

from mypt_dist.config.names import is_safe_name

MANIFEST = "manifest.json"
WEIGHTS, OPTIMIZER, RANK_STATE = "weights", "optimizer", "rank-state"
FOLDERS = {"model": WEIGHTS, "optimizer": OPTIMIZER}
"""First part of a tensor's name -> the folder of its bytes."""

_STEP = re.compile(r"step-(\d{8}|[1-9]\d{8,14})(?:\.(partial|aside|corrupt|undone)(?:-([0-9a-z]+))?)?")
_TRASH = ".trash-"


@dataclass(frozen=True, slots=True)
class StepFolder:
    """A folder beside other checkpoints: ``kind`` is "" for a checkpoint, else partial, aside, corrupt or undone."""

    path: Path
    step: int
    kind: str


def step_name(step: int, kind: str = "", token: str = "") -> str:
    """``step-00001000``, or ``step-00001000.partial-<token>`` for a ``kind`` that is not a checkpoint."""
    return f"step-{step:08d}" + (f".{kind}" if kind else "") + (f"-{token}" if token else "")


def parse_step(path: Path) -> StepFolder | None:
    """What a folder's name says, or None for a name that is not ours."""
    match = _STEP.fullmatch(path.name)
    return StepFolder(path, int(match[1]), match[2] or "") if match else None


def trash_name(name: str, token: str) -> str:
    """What a folder is called while it is being deleted."""
    return f"{_TRASH}{name}-{token}"


def is_trash(name: str) -> bool:
    """Whether deleting this folder has begun."""
    return name.startswith(_TRASH)


def part_name(folder: str, rank: int, size: int, part: int) -> str:
    """``weights/rank-00000-of-00004.safetensors``; further parts are called ``….part-01.safetensors``."""
    return f"{folder}/rank-{rank:05d}-of-{size:05d}" + (f".part-{part:02d}" if part else "") + ".safetensors"


def rank_state_name(rank: int) -> str:
    """``rank-state/00000.json``."""
    return f"{RANK_STATE}/{rank:05d}.json"


def is_safe_file(name: str) -> bool:
    """Whether a manifest may list this file: ``name`` or ``folder/name``, plain characters, no ``..``."""
    parts = name.split("/")
    return len(parts) <= 2 and all(is_safe_name(part) for part in parts)


def is_safe_extra(name: str) -> bool:
    """Whether a caller may add a file of this name beside the tensors."""
    return is_safe_file(name) and "/" not in name and name not in (MANIFEST, WEIGHTS, OPTIMIZER, RANK_STATE)
