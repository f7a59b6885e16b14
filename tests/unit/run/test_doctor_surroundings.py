"""Disk, network, data and other ranks: each check with the fault that it is for, beside the healthy case."""

import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mypt_dist.checkpoint import RunLock
from mypt_dist.checkpoint.files import Files
from mypt_dist.run.config import RunConfig
from mypt_dist.run.doctor import disk, folder, inputs, network, together
from mypt_dist.run.doctor.check import Result, examine_all

GB = 1 << 30


def share(batch_size: int, micro_batch: int | None = None) -> Any:
    return SimpleNamespace(batch_size=batch_size, micro_batch=micro_batch)


@pytest.mark.parametrize(
    ("result", "status", "part"),
    [
        (disk.file_system("ext4"), "ok", "ext4"),
        (disk.file_system("tmpfs"), "warn", "gone at the next reboot"),
        (disk.file_system("overlay"), "warn", "gone with the container"),
        (disk.file_system("nfs4"), "warn", "network file system"),
        (disk.file_system(None), "skip", ""),
        (disk.room(100 * GB, GB, 3), "ok", "100.0 GiB free"),
        (disk.room(3 * GB, GB, 3), "warn", "3 are kept"),
        (disk.room(GB, GB, 3), "fail", "no room for two"),
        (disk.room(GB // 2, None, 3), "warn", "0.5 GiB free"),
        (disk.room(9 * GB, None, 3), "ok", "9.0 GiB"),
        (disk.inodes(10**6, 10**7), "ok", "1,000,000 free"),
        (disk.inodes(5000, 10**7), "warn", "5,000 free"),
        (disk.inodes(3, 10**7), "fail", "3 free"),
        (disk.inodes(0, 0), "skip", "does not count"),
        (disk.speed(8_000_000, 0.02, None), "ok", "400 MB/s"),
        (disk.speed(8_000_000, 1.0, 80_000_000), "warn", "8 MB/s, flushed: 10.0 s for a checkpoint"),
        (network.address("localhost"), "ok", "127.0.0.1"),
        (network.address("no-such-machine.invalid"), "fail", "no-such-machine.invalid"),
        (network.address(None), "skip", "one process"),
        (network.own_name("localhost"), "ok", "localhost is"),
        (network.own_name("no-such-machine.invalid"), "warn", "cannot be resolved"),
        (network.interfaces({}, ["lo", "eth0"]), "ok", "lo, eth0"),
        (network.interfaces({"NCCL_SOCKET_IFNAME": "eth"}, ["lo", "eth0"]), "ok", "eth0"),
        (network.interfaces({"NCCL_SOCKET_IFNAME": "^docker"}, ["lo", "eth0"]), "ok", "eth0"),
        (network.interfaces({"GLOO_SOCKET_IFNAME": "ib0"}, ["lo", "eth0"]), "fail", "GLOO_SOCKET_IFNAME=ib0"),
        (network.port(None, under_launcher=False), "skip", "any free one"),
        (network.port(1, under_launcher=True), "skip", "the launcher"),
        (network.tracker(None), "skip", "no MLflow tracker"),
        (network.tracker("sqlite:////no/such/place/mlflow.db"), "warn", "/no/such/place"),
        (network.tracker("databricks"), "skip", "not looked at"),
        (inputs.batch(share(8, 2), 2), "ok", "8 = 2 ranks x 2 passes x 2"),
        (inputs.batch(share(8), 3), "fail", "cannot be shared by 3 ranks"),
        (inputs.memory(inputs.Memory(GB, 4 * GB, "CPU")), "ok", "1.00 GiB forecast"),
        (inputs.memory(inputs.Memory(9 * GB, 10 * GB, "GPU")), "warn", "10.00 GiB of GPU memory"),
        (inputs.memory(inputs.Memory(11 * GB, 10 * GB, "GPU")), "fail", "11.00 GiB forecast"),
        (together.clock_skew([5.0, 5.1], 0.01), "ok", "within"),
        (together.clock_skew([5.0, 9.5], 0.01), "warn", "rank 1 is 4.5 s ahead of rank 0"),
        (together.clock_skew([5.0, 6.5], 3.0), "ok", "within 3.000 s"),
        (together.same_folder([True, True], Path("/runs")), "ok", "2 ranks see /runs"),
        (together.same_folder([True, False], Path("/runs")), "fail", "ranks 1 do not see"),
        (together.bandwidth(16 << 20, 0.01, 2, "gloo"), "ok", "1,678 MB/s by gloo"),
        (together.bandwidth(16 << 20, 1.0, 2, "gloo"), "warn", "17 MB/s"),
        (together.bandwidth(16 << 20, 0.1, 8, "nccl"), "warn", "by nccl, 8 ranks"),
    ],
)
def test_a_fault_is_told_apart_from_health(result: Result, status: str, part: str) -> None:
    assert (result.status, part in result.found) == (status, True), result
    assert bool(result.advice) == (status in ("warn", "fail")), "advice where there is something to do"


class Broken(Files):
    """A file system that breaks one promise."""

    def __init__(self, promise: str) -> None:
        self._promise = promise

    def create(self, path: Path) -> int:
        if self._promise == "exclusive":
            return os.open(path, os.O_WRONLY | os.O_CREAT)
        return super().create(path)

    def rename(self, old: Path, new: Path) -> None:
        if self._promise == "replaces" and new.exists():
            new.rename(new.with_suffix(".swallowed"))
        elif self._promise == "forgets":
            return
        super().rename(old, new)

    def sync_folder(self, path: Path) -> None:
        if self._promise == "flush":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        super().sync_folder(path)


@pytest.mark.parametrize(
    ("promise", "status", "part"),
    [
        ("none", "ok", "work"),
        ("exclusive", "fail", "two processes can create the same file"),
        ("replaces", "fail", "a rename replaces a folder that holds files"),
        ("forgets", "fail", "does not appear under its new name"),
        ("flush", "fail", "cannot be renamed and flushed: Invalid argument"),
    ],
)
def test_a_broken_promise_of_the_disk_is_found(promise: str, status: str, part: str, tmp_path: Path) -> None:
    result = disk.promises(tmp_path, Broken(promise))
    assert (result.status, part in result.found) == (status, True), result


def test_a_folder_that_nothing_can_be_written_to_is_found(tmp_path: Path) -> None:
    assert disk.writable(tmp_path).status == "ok"
    assert disk.writable(Path("/proc")).status == "fail"


def test_the_file_system_is_that_of_the_innermost_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"a / ext4 rw 0 0\nb {tmp_path} nfs4 rw 0 0\nc /other tmpfs rw 0 0\n")
    assert disk.kind_of(tmp_path / "run", mounts) == "nfs4"
    assert disk.kind_of(Path("/usr"), mounts) == "ext4"
    assert disk.kind_of(Path("/usr"), tmp_path / "none") is None


def test_the_disk_is_left_as_it_was(tmp_path: Path) -> None:
    findings = examine_all(disk.disk_checks(tmp_path / "runs/deep", lambda: None, 3))
    assert [finding.name for finding in findings if finding.status == "fail"] == []
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def test_a_port_that_is_taken_is_found(listener: int) -> None:
    assert network.port(listener, under_launcher=False).status == "fail"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])
    assert network.port(free, under_launcher=False).status == "ok"


def test_a_tracker_that_does_not_answer_is_found_and_its_secrets_are_kept(listener: int) -> None:
    found = network.tracker(f"http://me:secret@127.0.0.1:{listener}")
    assert (found.status, "secret" in found.found) == ("ok", False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])
    found = network.tracker(f"http://me:secret@127.0.0.1:{free}")
    assert (found.status, "secret" in found.found) == ("warn", False)


def test_a_control_group_leaves_less_than_the_machine_has(tmp_path: Path) -> None:
    assert inputs.available_memory(8 * GB, None, 2) == 4 * GB
    assert inputs.available_memory(8 * GB, GB, 2) == GB // 2
    assert inputs.left_in_cgroup(tmp_path) is None
    (tmp_path / "memory.max").write_text(f"{4 * GB}\n")
    (tmp_path / "memory.current").write_text(f"{GB}\n")
    assert inputs.left_in_cgroup(tmp_path) == 3 * GB
    (tmp_path / "memory.max").write_text("max\n")
    assert inputs.left_in_cgroup(tmp_path) is None


def test_a_run_file_is_held_against_its_data(run_mapping: dict[str, Any], tmp_path: Path) -> None:
    def statuses(config: RunConfig | None, **environ: str) -> dict[str, str]:
        return {finding.name: finding.status for finding in examine_all(inputs.run_checks(config, environ))}

    healthy = RunConfig.model_validate(run_mapping)
    assert statuses(healthy) == {"data": "ok", "batch": "ok", "memory": "ok"}
    assert (inputs.checkpoint_bytes(healthy) or 0) > 0
    assert statuses(healthy, WORLD_SIZE="3")["batch"] == "fail"
    missing = RunConfig.model_validate({**run_mapping, "data": {"path": str(tmp_path / "none")}})
    assert statuses(missing)["data"] == "fail"
    assert inputs.checkpoint_bytes(missing) is None
    told = missing.model_copy(update={"model": missing.model.with_vocabulary(256)})
    assert (inputs.checkpoint_bytes(told) or 0) > 0
    narrow = RunConfig.model_validate({**run_mapping, "model": {**run_mapping["model"], "vocab_size": 7}})
    assert statuses(narrow)["data"] == "fail"
    assert set(statuses(None).values()) == {"skip"}


def test_a_folder_in_which_a_process_trains_is_found(tmp_path: Path) -> None:
    assert folder.lock(tmp_path).status == "ok"
    with RunLock(tmp_path):
        assert folder.lock(tmp_path).status == "fail"
        held = json.loads((tmp_path / "run.lock").read_bytes().strip(b" \0\n"))
    assert folder.lock(tmp_path).status == "ok"
    gone = {**held, "process": {**held["process"], "started": "1"}}
    (tmp_path / "run.lock").write_text(json.dumps(gone))
    assert "taken over" in folder.lock(tmp_path).found
    (tmp_path / "run.lock").write_text(json.dumps({**held, "process": {**held["process"], "host": "elsewhere"}}))
    assert folder.lock(tmp_path).status == "warn"
    (tmp_path / "run.lock").write_text("{")
    assert folder.lock(tmp_path).status == "warn"


def test_a_run_that_cannot_be_resumed_is_found(run_mapping: dict[str, Any], tmp_path: Path) -> None:
    import mypt_dist

    run = tmp_path / "run"
    assert folder.checkpoints(run).status == "ok"
    mypt_dist.train(run_mapping)
    assert "would resume from step 6" in folder.checkpoints(run).found
    for step, status in ((6, "warn"), (3, "fail")):
        (shard,) = (run / f"checkpoints/step-{step:08d}/weights").iterdir()
        shard.write_bytes(shard.read_bytes()[:-1])
        assert folder.checkpoints(run).status == status
