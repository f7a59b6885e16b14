"""One verified checkpoint for every engine: flat segments in safetensors files, and a manifest written last."""

from mypt_dist.checkpoint.canary import Canary, canary_problem
from mypt_dist.checkpoint.catalog import Summary, list_checkpoints, open_checkpoint, verify_checkpoint
from mypt_dist.checkpoint.files import Disk, Files
from mypt_dist.checkpoint.lock import Lease, RunLock
from mypt_dist.checkpoint.manifest import CorruptError, FileEntry, Manifest, SegmentEntry, TensorEntry
from mypt_dist.checkpoint.reading import Checkpoint
from mypt_dist.checkpoint.retention import Retention
from mypt_dist.checkpoint.segments import ITEM_BYTES, Dtype, Segment
from mypt_dist.checkpoint.store import CheckpointStore

__all__ = [
    "ITEM_BYTES",
    "Canary",
    "Checkpoint",
    "CheckpointStore",
    "CorruptError",
    "Disk",
    "Dtype",
    "FileEntry",
    "Files",
    "Lease",
    "Manifest",
    "Retention",
    "RunLock",
    "Segment",
    "SegmentEntry",
    "Summary",
    "TensorEntry",
    "canary_problem",
    "list_checkpoints",
    "open_checkpoint",
    "verify_checkpoint",
]
