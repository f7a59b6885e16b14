"""One verified checkpoint for every engine: flat segments in safetensors files, and a manifest written last."""

from mypt_dist.checkpoint.agreement import NotAgreedError
from mypt_dist.checkpoint.background import BackgroundSaves, Dropped, Outcome, Saved, Share
from mypt_dist.checkpoint.cadence import Cadence, best_interval_s, in_steps
from mypt_dist.checkpoint.canary import Canary, canary_problem
from mypt_dist.checkpoint.catalog import Summary, list_checkpoints, newest_manifest, open_checkpoint, verify_checkpoint
from mypt_dist.checkpoint.config import CheckpointConfig
from mypt_dist.checkpoint.ephemeral import is_ephemeral, marked
from mypt_dist.checkpoint.files import Disk, Files
from mypt_dist.checkpoint.lock import Lease, RunLock
from mypt_dist.checkpoint.manifest import CorruptError, FileEntry, Manifest, SegmentEntry, TensorEntry
from mypt_dist.checkpoint.mirror import Mirror, fill_from_mirror
from mypt_dist.checkpoint.mirror_process import mirrored
from mypt_dist.checkpoint.mirror_target import MirrorTarget
from mypt_dist.checkpoint.orders import Fence, Setup
from mypt_dist.checkpoint.policy import CheckpointPolicy
from mypt_dist.checkpoint.reading import Checkpoint
from mypt_dist.checkpoint.receipts import Receipt
from mypt_dist.checkpoint.remedies import remedy
from mypt_dist.checkpoint.retention import Retention
from mypt_dist.checkpoint.segments import ITEM_BYTES, Dtype, Segment
from mypt_dist.checkpoint.store import CheckpointStore
from mypt_dist.checkpoint.writer_process import Writer, WriterProcess

__all__ = [
    "ITEM_BYTES",
    "BackgroundSaves",
    "Cadence",
    "Canary",
    "Checkpoint",
    "CheckpointConfig",
    "CheckpointPolicy",
    "CheckpointStore",
    "CorruptError",
    "Disk",
    "Dropped",
    "Dtype",
    "Fence",
    "FileEntry",
    "Files",
    "Lease",
    "Manifest",
    "Mirror",
    "MirrorTarget",
    "NotAgreedError",
    "Outcome",
    "Receipt",
    "Retention",
    "RunLock",
    "Saved",
    "Segment",
    "SegmentEntry",
    "Setup",
    "Share",
    "Summary",
    "TensorEntry",
    "Writer",
    "WriterProcess",
    "best_interval_s",
    "canary_problem",
    "fill_from_mirror",
    "in_steps",
    "is_ephemeral",
    "list_checkpoints",
    "marked",
    "mirrored",
    "newest_manifest",
    "open_checkpoint",
    "remedy",
    "verify_checkpoint",
]
