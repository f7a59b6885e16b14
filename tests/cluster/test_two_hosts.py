"""Two hosts, each given the same command but for its number: one run, the same as on one host."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hosts import ADDRESSES, NEEDS_ROOT, ON_ONE_HOST, TwoHosts, logs
from lives import Final, ForkServer, final, write_run

from mypt_dist.checkpoint import open_checkpoint
from mypt_dist.tracking.journal import read_events

pytestmark = [NEEDS_ROOT, pytest.mark.cluster, pytest.mark.timeout(600)]

OnOneHost = Callable[[str, dict[str, Any]], Final]


@pytest.fixture(scope="module")
def on_one_host(tmp_path_factory: pytest.TempPathFactory) -> OnOneHost:
    """``on_one_host("ddp", mapping)``: what two ranks of an engine learn there. Each engine trains once."""
    known: dict[str, Final] = {}

    def result(engine: str, mapping: dict[str, Any]) -> Final:
        if engine not in known:
            file = write_run(mapping, tmp_path_factory.mktemp("one-host"), engine)
            with ForkServer() as server:
                assert server.start(file, ranks=2, environment=ON_ONE_HOST[engine]).wait() == [0, 0]
            known[engine] = final(file.with_suffix(""))
        return known[engine]

    return result


@pytest.mark.parametrize("rendezvous", ["static", "c10d"])
@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_accelerate_launch_on_both_hosts_trains_as_one_host_does(
    engine: str, rendezvous: str, run_mapping: dict[str, Any], tmp_path: Path, on_one_host: OnOneHost
) -> None:
    file = write_run(run_mapping, tmp_path, "two-hosts")
    with TwoHosts() as two:
        codes = [launcher.wait(400) for launcher in two.accelerate(file, engine, rendezvous)]
    assert codes == [0, 0], logs(file)
    assert final(file.with_suffix("")) == on_one_host(engine, run_mapping)
    manifest = open_checkpoint(file.with_suffix("")).manifest
    assert (manifest.step, manifest.world_size, manifest.engine["name"]) == (6, 2, engine)


def test_mypt_launch_on_both_hosts_trains_one_run(run_mapping: dict[str, Any], tmp_path: Path) -> None:
    file = write_run(run_mapping, tmp_path, "shared")
    with TwoHosts() as two:
        places = [["--nodes", "2", "--node-rank", str(number), "--address", ADDRESSES[0]] for number in range(2)]
        command = ["-m", "mypt_dist", "launch", "fsdp2", str(file), "--cpu", "--ranks", "2"]
        outputs = [tmp_path / f"{number}.log" for number in range(2)]
        launchers = [
            host.start(*command, *place, log=log) for host, place, log in zip(two.hosts, places, outputs, strict=True)
        ]
        codes = [launcher.wait(400) for launcher in launchers]
    assert codes == [0, 0], "".join(log.read_text() for log in outputs)
    manifest = open_checkpoint(file.with_suffix("")).manifest
    assert (manifest.step, manifest.world_size, manifest.engine["name"]) == (6, 2, "fsdp2")
    assert read_events(file.with_suffix(""))[-1]["status"] == "finished"
