"""Versions, limits and variables: each check with the fault that it is for, beside the healthy case."""

import resource
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mypt_dist.errors import DataError
from mypt_dist.run.doctor import machine, variables, versions
from mypt_dist.run.doctor.check import Check, Finding, Result, examine, examine_all, merged, ok

UNLIMITED = resource.RLIM_INFINITY
GIB = 1 << 30
REQUIRED = ["torch>=2.10", "deepspeed>=0.19; sys_platform == 'linux'", "pytest>=9; extra == 'dev'"]
RANK = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("result", "status", "part"),
    [
        (versions.python((3, 11, 7)), "ok", "3.11.7"),
        (versions.python((3, 10, 1)), "fail", "3.10.1"),
        (versions.packages(REQUIRED, {"torch": "2.13.0+cu130", "deepspeed": "0.19.8"}), "ok", "torch 2.13.0"),
        (
            versions.packages(REQUIRED, {"torch": "2.9.1", "deepspeed": "0.19.8"}),
            "fail",
            "torch 2.9.1 is older than 2.10",
        ),
        (versions.packages(REQUIRED, {"torch": "2.10.0", "deepspeed": None}), "fail", "deepspeed is missing"),
        (versions.packages([], {}), "skip", "not installed"),
        (versions.cuda("12.8", "570.86", 8, 8), "ok", "8 GPUs"),
        (versions.cuda("13.0", "570.86", 8, 8), "fail", "built for CUDA 13.0, the driver is 570.86"),
        (versions.cuda(None, "570.86", 0, 8), "fail", "torch is built for CPUs"),
        (versions.cuda("12.8", "570.86", 7, 8), "fail", "can use 7 of 8 GPUs"),
        (versions.cuda("12.8", None, 0, None), "skip", "no NVIDIA GPU"),
        (versions.nccl((2, 27, 3)), "ok", "2.27.3"),
        (versions.nccl((2, 14, 3)), "warn", "2.14.3"),
        (versions.nccl(None), "skip", "no NCCL"),
        (machine.shared_memory(8 * GIB, 8), "ok", "8,192 MiB"),
        (machine.shared_memory(64 << 20, 8), "fail", "64 MiB for 8 ranks"),
        (machine.shared_memory(64 << 20, 1), "warn", "as Docker gives"),
        (machine.shared_memory(None, 2), "warn", "no /dev/shm"),
        (machine.open_files(65536), "ok", "65536"),
        (machine.open_files(UNLIMITED), "ok", "unlimited"),
        (machine.open_files(1024), "warn", "1024"),
        (machine.open_files(128), "fail", "128"),
        (machine.processes(4096, 500), "ok", "4096"),
        (machine.processes(100, 500), "fail", "100, needed are 500"),
        (machine.locked_memory(65536, infiniband=True), "fail", "64 KiB, and InfiniBand is here"),
        (machine.locked_memory(UNLIMITED, infiniband=True), "ok", "unlimited"),
        (machine.locked_memory(65536, infiniband=False), "skip", "no InfiniBand"),
        (machine.core_dumps(0, 64 * GIB, GIB), "ok", "none"),
        (machine.core_dumps(UNLIMITED, 64 * GIB, GIB), "warn", "up to 64.0 GiB, free are 1.0 GiB"),
        (machine.core_dumps(UNLIMITED, 64 * GIB, 99 * GIB), "ok", "64.0 GiB"),
        (machine.threads(4, 2, 8), "ok", "2 x 4 threads on 8 cores"),
        (machine.threads(8, 2, 8), "warn", "2 ranks x 8 threads on 8 cores"),
        (machine.threads(None, 2, 8), "warn", "not set for 2 ranks"),
        (variables.rank_variables({}), "ok", "one process"),
        (variables.rank_variables(RANK), "ok", "rank 0 of 2"),
        (variables.rank_variables({"RANK": "0", "WORLD_SIZE": "2"}), "fail", "without LOCAL_RANK, MASTER_ADDR"),
        (variables.rank_variables({**RANK, "RANK": "2"}), "fail", "RANK=2 of WORLD_SIZE=2"),
        (variables.rank_variables({**RANK, "WORLD_SIZE": "two"}), "fail", "not a number: WORLD_SIZE=two"),
        (variables.rank_variables({**RANK, "MYPT_EXPECT_RANKS": "8"}), "fail", "MYPT_EXPECT_RANKS=8, WORLD_SIZE=2"),
        (variables.mathematics({}, "bf16"), "ok", "single on 1 ranks"),
        (variables.mathematics({"ACCELERATE_MIXED_PRECISION": "fp16"}, "bf16"), "fail", "mixed_precision: fp16"),
        (variables.mathematics({"ACCELERATE_USE_MEGATRON_LM": "true"}, "bf16"), "fail", "Megatron-LM"),
        (variables.mathematics({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "fp32"), "fail", "train.batch_size"),
        (variables.slowing({"NCCL_DEBUG": "INFO"}), "ok", "none"),
        (variables.slowing({"CUDA_LAUNCH_BLOCKING": "1"}), "warn", "every kernel is waited for"),
        (variables.slowing({"CUDA_LAUNCH_BLOCKING": "0", "NCCL_IB_DISABLE": "0"}), "ok", "none"),
        (variables.proxies({"HTTP_PROXY": "http://p:1"}, "http://ml:5000"), "warn", "ml is not in no_proxy"),
        (variables.proxies({"http_proxy": "http://p:1", "no_proxy": "x,ml"}, "http://ml:5000"), "ok", "exempt"),
        (variables.proxies({"https_proxy": "http://p:1"}, "http://ml:5000"), "ok", "none"),
        (variables.proxies({"http_proxy": "http://p:1"}, "sqlite:///a.db"), "skip", "no tracker"),
    ],
)
def test_a_fault_is_told_apart_from_health(result: Result, status: str, part: str) -> None:
    assert (result.status, part in result.found) == (status, True), result
    assert bool(result.advice) == (status in ("warn", "fail")), "advice where there is something to do"


def test_the_driver_tells_its_version() -> None:
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\nGCC version: gcc 12.3.0"
    assert versions.driver_version(text) == "570.86.15"
    assert versions.driver_version("nothing") is None


def look_that(raises: Exception) -> Callable[[], Result]:
    def look() -> Result:
        raise raises

    return look


def test_a_check_that_breaks_takes_no_other_with_it() -> None:
    broken = Check("broken", "x", look_that(ZeroDivisionError("oh")))
    ours = Check("ours", "x", look_that(DataError("shard 3 is damaged")))
    first, second, third = examine_all([broken, ours, Check("fine", "x", lambda: ok("yes"))])
    assert (first.status, first.found) == ("fail", "ZeroDivisionError: oh")
    assert (second.status, second.found) == ("fail", "shard 3 is damaged")
    assert third.status == "ok"


def test_a_check_that_hangs_is_cut_off_and_told() -> None:
    never = threading.Event()
    finding = examine(Check("hangs", "x", lambda: ok(str(never.wait())), limit_s=0.2))
    never.set()
    assert (finding.status, finding.found) == ("fail", "no answer in 0.2 s")


def test_of_several_ranks_the_worst_is_told_with_its_number() -> None:
    fine, bad = Finding("disk", "ok", "fast", "", ""), Finding("disk", "warn", "slow", "", "buy")
    assert merged([[fine], [fine]]) == [fine]
    assert merged([[fine], [bad], [bad]])[0].found == "rank 1: slow"
    assert merged([[bad]]) == [bad]
    dead = Finding("clock", "fail", "none", "", "")
    assert [finding.status for finding in merged([[fine], [bad, dead]])] == ["warn", "fail"]


def test_real_probes_of_this_machine_come_to_an_end() -> None:
    checks = [*machine.machine_checks({}, 1, gpus=False), *variables.variable_checks({}, "fp32", None)]
    findings = examine_all([*checks, *versions.version_checks(None)])
    assert not [finding for finding in findings if "the check itself" in finding.advice]
    assert len({finding.name for finding in findings}) == len(findings)


def test_docker_gives_too_little_shared_memory_only_where_it_is_used(tmp_path: Path) -> None:
    """Ranks on CPUs do not use it."""
    on_gpus = machine.shared_memory(16 << 20, 2)
    assert (on_gpus.status, "--shm-size" in on_gpus.advice) == ("fail", True)
    assert machine.shared_memory(16 << 20, 1).status == "warn"
