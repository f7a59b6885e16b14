"""The real writer process: it works, it is replaced when it dies, it dies with its rank, it loads no torch."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from background_doubles import share, train
from checkpoint_doubles import random_state, read_whole, same

from mypt_dist.checkpoint import (
    BackgroundSaves,
    Dropped,
    Fence,
    NotAgreedError,
    RunLock,
    Saved,
    Setup,
    WriterProcess,
    open_checkpoint,
    verify_checkpoint,
)
from mypt_dist.checkpoint.host_buffer import PAGE, HostBuffer, SharedView
from mypt_dist.checkpoint.orders import Discard, Open
from mypt_dist.checkpoint.process import start_of
from mypt_dist.world import Solo

DEADLINE_S = 60


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[WriterProcess]:
    process = WriterProcess(Setup(root=tmp_path / "checkpoints", rank=0, size=1))
    yield process
    process.close()


def answered(writer: WriterProcess) -> dict[str, object]:
    answer = writer.answer(DEADLINE_S)
    assert answer is not None
    return dict(answer)


def test_the_buffer_grows_and_what_is_in_it_is_seen_by_the_other_side() -> None:
    buffer = HostBuffer()
    first = buffer.room(10)
    first[:2] = b"ab"
    view = SharedView(buffer.descriptor)
    assert bytes(view.read(2)) == b"ab"
    assert buffer.room(PAGE).obj is first.obj, "there is room already"
    larger = buffer.room(3 * PAGE)
    larger[3 * PAGE - 1] = 7
    assert first[0] == ord("a"), "the earlier view stays valid"
    assert view.read(3 * PAGE)[-1] == 7
    buffer.close()
    buffer.close()


def test_a_lack_of_memory_is_an_error_not_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    buffer = HostBuffer()
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(MemoryError, match=r"no [\d,]+ bytes of host memory"):
        buffer.room(PAGE)
    buffer.close()


def test_a_process_of_its_own_saves_and_is_used_again(tmp_path: Path, writer: WriterProcess) -> None:
    saves = BackgroundSaves(Solo(), writer, timeout_s=DEADLINE_S)
    pids = []
    for step in (1, 2):
        saves.begin(share(Solo(), step))
        pids.append(writer.pid)
        heard = []
        while saves.in_flight:
            saves.wait(DEADLINE_S)
            heard += [outcome for outcome in [saves.heard(saves.vote())] if outcome]
        assert [type(outcome) for outcome in heard] == [Saved]
    assert pids[0] == pids[1] != os.getpid()
    assert verify_checkpoint(tmp_path / "checkpoints") == []
    with open_checkpoint(tmp_path / "checkpoints") as found:
        assert same(read_whole(found), random_state(2))


@pytest.mark.parametrize("moment", ["working", "between orders"])
def test_a_killed_writer_fails_the_save_and_the_next_has_a_new_one(
    tmp_path: Path, writer: WriterProcess, moment: str
) -> None:
    saves = BackgroundSaves(Solo(), writer, timeout_s=DEADLINE_S)
    saves.begin(share(Solo(), 1))
    if moment == "between orders":
        saves.wait(DEADLINE_S)
    first = writer.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    (dropped,) = heard_of(saves)
    if moment == "working":
        assert isinstance(dropped, Dropped)
        assert "ended (killed by SIGKILL)" in str(dropped.error)
    saves.begin(share(Solo(), 2))
    (saved,) = heard_of(saves)
    assert isinstance(saved, Saved)
    assert writer.pid != first
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert "step-00000002" in names
    assert not [name for name in names if "partial" in name]


def test_a_writer_that_can_not_be_started_fails_the_save_not_the_run(
    tmp_path: Path, writer: WriterProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    saves = BackgroundSaves(Solo(), writer, timeout_s=DEADLINE_S)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        saves.begin(share(Solo(), 1))
        (dropped,) = heard_of(saves)
    assert isinstance(dropped, Dropped)
    assert dropped.error.failures[0].errno == errno.EMFILE
    saves.begin(share(Solo(), 2))
    assert [type(outcome) for outcome in heard_of(saves)] == [Saved]


def test_no_descriptor_for_the_copy_is_a_failed_save_too(
    writer: WriterProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    saves = BackgroundSaves(Solo(), writer, timeout_s=DEADLINE_S)
    monkeypatch.setattr("os.memfd_create", refuse)
    with pytest.raises(NotAgreedError, match="Too many open files"):
        saves.begin(share(Solo(), 1))


def heard_of(saves: BackgroundSaves) -> list[object]:
    heard: list[object] = []
    while saves.in_flight:
        saves.wait(DEADLINE_S)
        heard += [outcome for outcome in [saves.heard(saves.vote())] if outcome]
    return heard


def test_an_order_that_can_not_be_read_ends_the_writer_and_that_is_an_answer(writer: WriterProcess) -> None:
    writer.order(Discard(folder="none"))
    assert answered(writer)["failure"] is None
    writer._send(b"nonsense\n")
    failure = answered(writer)["failure"]
    assert isinstance(failure, dict)
    assert "exit code 1" in str(failure["text"])


def test_a_stopped_writer_is_killed_at_the_end(writer: WriterProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mypt_dist.checkpoint.writer_process.CLOSE_S", 0.2)
    writer.order(Discard(folder="none"))
    answered(writer)
    pid = writer.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr("mypt_dist.checkpoint.writer_process.CLOSE_S", 5.0)
    writer.kill()
    assert start_of(pid) is None
    assert writer.pid is None


def test_signals_for_the_rank_do_not_reach_it(tmp_path: Path, writer: WriterProcess) -> None:
    writer.order(Discard(folder="none"))
    answered(writer)
    assert writer.pid is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        os.kill(writer.pid, number)
    assert os.getsid(writer.pid) != os.getsid(0)
    writer.order(Open(step=1, bytes=1, files=1))
    assert str(answered(writer)["told"]).startswith("step-00000001.partial-")


def test_a_lock_that_was_lost_stops_the_commit(tmp_path: Path) -> None:
    with RunLock(tmp_path) as lock:
        fence = Fence(folder=tmp_path, token=lock.token)
        process = WriterProcess(Setup(root=tmp_path / "checkpoints", rank=0, size=1, fence=fence))
        saves = BackgroundSaves(Solo(), process, timeout_s=DEADLINE_S)
        saves.begin(share(Solo(), 1))
        saves.wait(DEADLINE_S)
        saves.heard(saves.vote())
        record = (tmp_path / "run.lock").read_text()
        (tmp_path / "run.lock").write_text(record.replace(lock.token, "f" * len(lock.token)))
        (dropped,) = heard_of(saves)
        assert isinstance(dropped, Dropped)
        assert dropped.error.failures[0].kind == "LockError"
        saves.close()
    assert not (tmp_path / "checkpoints" / "step-00000001").exists()


RANK = """
    import os, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from background_doubles import share
    from mypt_dist.checkpoint import BackgroundSaves, Setup, WriterProcess
    from mypt_dist.world import Solo
    writer = WriterProcess(Setup(root=Path(sys.argv[1]), rank=0, size=1))
    saves = BackgroundSaves(Solo(), writer, timeout_s=60)
    saves.begin(share(Solo(), 1))
    saves.wait(60)
    saves.heard(saves.vote())
    assert saves.in_flight
    print(writer.pid, flush=True)
    sys.stdin.read()
"""


def test_it_dies_with_its_rank_and_commits_nothing(tmp_path: Path) -> None:
    pid, rank = rank_with_writer(tmp_path)
    os.kill(rank.pid, signal.SIGKILL)
    rank.wait()
    deadline = time.monotonic() + DEADLINE_S
    while start_of(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert start_of(pid) is None
    close(rank)
    assert all("partial" in path.name for path in tmp_path.iterdir())


def rank_with_writer(root: Path) -> tuple[int, subprocess.Popen[str]]:
    """A rank with a save in flight; the writer's process id."""
    rank = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RANK), str(root), str(Path(__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert rank.stdout is not None
    return int(rank.stdout.readline()), rank


def close(rank: subprocess.Popen[str]) -> None:
    for pipe in (rank.stdin, rank.stdout):
        assert pipe is not None
        pipe.close()


def test_a_stopped_writer_dies_with_its_rank_too(tmp_path: Path) -> None:
    """The end of the pipe alone would not reach it: it does not run. The kernel's signal does."""
    pid, rank = rank_with_writer(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    os.kill(rank.pid, signal.SIGKILL)
    rank.wait()
    deadline = time.monotonic() + DEADLINE_S
    while start_of(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert start_of(pid) is None
    close(rank)


def test_the_writer_is_light(tmp_path: Path) -> None:
    code = "import sys, mypt_dist.checkpoint.writer; assert not {'torch', 'mlflow', 'accelerate'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_writer_without_a_rank_ends_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypt_dist.checkpoint.writer"], input=b"", capture_output=True, check=True
    )
    assert done.stdout + done.stderr == b""


def test_saving_and_training_take_turns(tmp_path: Path, writer: WriterProcess) -> None:
    saves = BackgroundSaves(Solo(), writer, timeout_s=DEADLINE_S)
    saves.begin(share(Solo(), 1))
    outcomes, steps = [], 0
    while saves.in_flight:
        outcome = saves.heard(saves.vote())
        outcomes += [outcome] if outcome else []
        steps += 1
        time.sleep(0.005)
    assert [type(outcome) for outcome in outcomes] == [Saved]
    assert steps > 4, "no step waited for the disk"
    assert list(train(saves, Solo())) == []
    assert isinstance(save_again(saves), Saved)


def save_again(saves: BackgroundSaves) -> object:
    saves.begin(share(Solo(), 2))
    return heard_of(saves)[0]
