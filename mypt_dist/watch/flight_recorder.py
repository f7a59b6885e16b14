"""NCCL's own record of collectives, which torch dumps when it is told to through a named pipe: no Python is needed.

Torch makes the pipe, in a thread of the rank, where TORCH_NCCL_DEBUG_INFO_PIPE_FILE names one, and dumps to the file
of TORCH_NCCL_DEBUG_INFO_TEMP_FILE. Both are the user's to set: torch ends a rank whose pipe it cannot make.
"""

import os
from typing import Final

PIPE: Final = "TORCH_NCCL_DEBUG_INFO_PIPE_FILE"
FILE: Final = "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"


def ask(rank: int) -> str:
    """Have torch dump, and return where to look; empty where there is no pipe, or nobody reads it."""
    prefix = os.environ.get(PIPE)
    if not prefix:
        return ""
    try:
        # Without a reader this fails instead of waiting.
        descriptor = os.open(f"{prefix}{rank}.pipe", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        os.write(descriptor, b"1")
    finally:
        os.close(descriptor)
    return f"NCCL's record of collectives: {os.environ.get(FILE, '/tmp/nccl_trace_rank_')}{rank}"
