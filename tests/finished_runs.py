"""What tests read from the folder of a run that has ended."""

import hashlib
from pathlib import Path

from mypt_dist.checkpoint import Checkpoint, Manifest, open_checkpoint
from mypt_dist.tracking.journal import read_metrics


def manifest(run: Path, step: int) -> Manifest:
    """Of the checkpoint after ``step``."""
    return open_checkpoint(run / f"checkpoints/step-{step:08}").manifest


def state_hashes(run: Path, step: int) -> dict[str, str]:
    """Of the checkpoint after ``step``."""
    with open_checkpoint(run / f"checkpoints/step-{step:08}") as checkpoint:
        return hashes(checkpoint)


def hashes(checkpoint: Checkpoint) -> dict[str, str]:
    """sha256 of every tensor, whoever wrote it: weights and moments."""
    found = {}
    for name, tensor in checkpoint.manifest.tensors.items():
        buffer = bytearray(4 * tensor.elements)
        checkpoint.read_into(name, 0, tensor.elements, buffer)
        found[name] = hashlib.sha256(buffer).hexdigest()
    return found


def losses(run: Path, name: str = "train/loss") -> list[float]:
    """Of every step that was logged, or another metric's values."""
    return [row[name] for row in read_metrics(run) if name in row]
