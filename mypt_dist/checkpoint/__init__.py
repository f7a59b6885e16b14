"""One verified checkpoint for every engine: flat segments in safetensors files, and a manifest written last."""

from mypt_dist.checkpoint.canary import Canary, canary_problem
from mypt_dist.checkpoint.catalog import Summary, list_checkpoints, open_checkpoint, verify_checkpoint
from mypt_dist.checkpoint.files import Disk, Files
from mypt_dist.checkpoint.lock import Lease, RunLock
from mypt_dist.checkpoint.manifest import CorruptError, FileEntry, Manifest, SegmentEntry, TensorEntry
from mypt_dist.checkpoint.mirror import Mirror, fill_from_mirror
from mypt_dist.checkpoint.mirror_process import mirrored
from mypt_dist.checkpoint.mirror_target import MirrorTarget
from mypt_dist.checkpoint.policy import CheckpointPolicy
from mypt_dist.checkpoint.reading import Checkpoint
from mypt_dist.checkpoint.retention import Retention
from mypt_dist.checkpoint.segments import ITEM_BYTES, Dtype, Segment
from mypt_dist.checkpoint.store import CheckpointStore

__all__ = [
    "ITEM_BYTES",
    "Canary",
    "Checkpoint",
    "CheckpointPolicy",
    "CheckpointStore",
    "CorruptError",
    "Disk",
    "Dtype",
    "FileEntry",
    "Files",
    "Lease",
    "Manifest",
    "Mirror",
    "MirrorTarget",
    "Retention",
    "RunLock",
    "Segment",
    "SegmentEntry",
    "Summary",
    "TensorEntry",
    "canary_problem",
    "fill_from_mirror",
    "list_checkpoints",
    "mirrored",
    "open_checkpoint",
    "verify_checkpoint",
]
