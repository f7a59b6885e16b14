"""Two hosts, each given the same command but for its number: one run."""

from pathlib import Path
from typing import Any

import pytest
from hosts import ADDRESSES, NEEDS_ROOT, TwoHosts
from lives import write_run

from mypt_dist.checkpoint import open_checkpoint
from mypt_dist.tracking.journal import read_events

pytestmark = [NEEDS_ROOT, pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.mark.parametrize("target", ["ddp", "fsdp2"])
def test_mypt_launch_on_both_hosts_trains_one_run(target: str, run_mapping: dict[str, Any], tmp_path: Path) -> None:
    file = write_run(run_mapping, tmp_path, "shared")
    with TwoHosts() as two:
        places = [["--nodes", "2", "--node-rank", str(number), "--address", ADDRESSES[0]] for number in range(2)]
        command = ["-m", "mypt_dist", "launch", target, str(file), "--cpu", "--ranks", "2"]
        logs = [tmp_path / f"{number}.log" for number in range(2)]
        launchers = [
            host.start(*command, *place, log=log) for host, place, log in zip(two.hosts, places, logs, strict=True)
        ]
        codes = [launcher.wait(400) for launcher in launchers]
    assert codes == [0, 0], "".join(log.read_text() for log in logs)
    manifest = open_checkpoint(file.with_suffix("")).manifest
    assert (manifest.step, manifest.world_size, manifest.engine["name"]) == (6, 2, target)
    assert read_events(file.with_suffix(""))[-1]["status"] == "finished"
