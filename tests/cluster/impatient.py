"""Under a launcher: `mypt` with another patience for silent peers, in seconds. impatient.py SECONDS ARGUMENT…"""

import functools
import sys
from datetime import timedelta

import torch.distributed as dist

from mypt_dist.cli import main
from mypt_dist.engine import engine, host

patience = timedelta(seconds=float(sys.argv[1]))
engine.COLLECTIVE_TIMEOUT = patience
host.dist.new_group = functools.partial(dist.new_group, timeout=patience)
raise SystemExit(main(sys.argv[2:]))
