"""The time-out of collectives reaches every group, those of sharding engines too, while a run goes on."""

import subprocess
import sys
from pathlib import Path

from mypt_dist.engine import Engine
from mypt_dist.engine.timeouts import set_timeout

GROUPS = """
import sys, torch, torch.distributed as dist
from datetime import timedelta
from mypt_dist.engine.timeouts import set_timeout
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
groups = [dist.group.WORLD, dist.new_group(backend="gloo"), dist.new_group([0], timeout=timedelta(seconds=99))]
def seconds():
    return [group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups]
print(*seconds())
set_timeout(7.5)
print(*seconds())
"""


def test_every_group_gets_the_time_out(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", GROUPS, str(tmp_path / "meeting")]
    before, after = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert before == "1800.0 1800.0 99.0"
    assert after == "7.5 7.5 7.5"


def test_a_rank_alone_waits_for_nobody() -> None:
    engine = Engine(timeout_s=5)
    engine.let_wait(3)
    set_timeout(60)
    engine.close()
