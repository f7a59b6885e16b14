"""What tests read from the folder of a run that has ended."""

import hashlib
from pathlib import Path

from mypt_dist.checkpoint import Manifest, open_checkpoint
from mypt_dist.tracking.journal import read_metrics


def manifest(run: Path, step: int) -> Manifest:
    """Of the checkpoint after ``step``."""
    return open_checkpoint(run / f"checkpoints/step-{step:08}").manifest


def state_hashes(run: Path, step: int) -> dict[str, str]:
    """sha256 of every tensor, whoever wrote it: weights and moments."""
    hashes = {}
    with open_checkpoint(run / f"checkpoints/step-{step:08}") as checkpoint:
        for name, tensor in checkpoint.manifest.tensors.items():
            buffer = bytearray(4 * tensor.elements)
            checkpoint.read_into(name, 0, tensor.elements, buffer)
            hashes[name] = hashlib.sha256(buffer).hexdigest()
    return hashes


def losses(run: Path, name: str = "train/loss") -> list[float]:
    """Of every step that was logged, or another metric's values."""
    return [row[name] for row in read_metrics(run) if name in row]
