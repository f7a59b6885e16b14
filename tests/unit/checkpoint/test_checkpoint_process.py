"""Which process is this, and is another one still alive?"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mypt_dist.checkpoint import process
from mypt_dist.checkpoint.process import Process, is_alive, start_of

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def test_this_process_is_alive_and_sees_itself() -> None:
    this = Process.this()
    assert this.pid == os.getpid()
    assert is_alive(this)
    assert this.sees(this)


def test_a_number_used_again_by_another_process_is_not_the_same_process() -> None:
    assert not is_alive(Process.this().model_copy(update={"started": "1"}))


def test_a_process_that_ended_is_gone_even_before_its_parent_noticed() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    other = Process.this().model_copy(update={"pid": child.pid, "started": start_of(child.pid)})
    assert is_alive(other)
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(other), "a zombie is not alive"
    child.wait()
    assert not is_alive(other)


@pytest.mark.parametrize("field", ["host", "boot_id", "pid_namespace"])
def test_a_process_of_another_machine_start_or_container_can_not_be_seen(field: str) -> None:
    this = Process.this()
    assert not this.sees(this.model_copy(update={field: "other"}))
    nameless = this.model_copy(update={field: ""})
    assert not nameless.sees(nameless)


def test_a_process_hidden_from_us_counts_as_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(process, "_text", lambda path: "")
    assert is_alive(Process(host="", boot_id="", pid_namespace="", pid=os.getpid(), started="7"))
    monkeypatch.setattr(process.os, "kill", refuse)
    assert start_of(1) == ""


def test_a_system_that_does_not_tell_gives_empty_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process._text(Path("/proc/none")) == ""
    assert process._link(Path("/proc/none")) == ""
