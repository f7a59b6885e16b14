"""A dataset is there as a whole or not at all."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.data.prepare import PrepareSettings, prepare, staging, writer
from mypt_dist.data.prepare.inputs import find_files
from mypt_dist.data.prepare.threads import in_order
from mypt_dist.data.verify import verify_dataset
from mypt_dist.errors import ConfigError, DataError, LockError
from mypt_dist.tokenizers import ByteTokenizer


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(20):
        (tmp_path / "in" / f"{i}.txt").write_text(f"document {i} " * 50)
    return tmp_path / "in"


def run(corpus, out, **settings):
    return prepare([corpus], out, PrepareSettings(tokenizer="byte", val_fraction=0.2, workers=2, **settings))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_but_the_dataset_is_left(corpus, tmp_path):
    run(corpus, tmp_path / "a/b/out")
    assert sorted(path.name for path in (tmp_path / "a/b/out").iterdir()) == ["dataset.json", "train", "val"]


def test_a_finished_dataset_is_kept_unless_told_otherwise(corpus, tmp_path):
    out = tmp_path / "out"
    run(corpus, out)
    before = contents(out)
    with pytest.raises(ConfigError, match=r"out holds a finished dataset: choose another folder, or say --overwrite"):
        run(corpus, out)
    assert contents(out) == before
    run(corpus, out, overwrite=True, shard_tokens=1000)
    assert len(DatasetManifest.read(out).splits.train.shards) > 1
    assert verify_dataset(out) == []


def test_a_smaller_dataset_leaves_no_shard_of_the_larger_one_it_replaces(corpus, tmp_path):
    run(corpus, tmp_path / "out", shard_tokens=500)
    run(corpus, tmp_path / "out", overwrite=True)
    assert verify_dataset(tmp_path / "out") == []


@pytest.mark.parametrize("name", ["notes.txt", "train", ".git"])
def test_a_folder_with_anything_else_in_it_is_refused_and_left_alone(corpus, tmp_path, name):
    out = tmp_path / "out"
    (out / name).mkdir(parents=True)
    (out / name / "precious.bin").write_bytes(b"x")
    with pytest.raises(ConfigError, match=rf"is not empty and holds no dataset \(there is: {name}\)"):
        run(corpus, out, overwrite=True)
    assert contents(out) == {f"{name}/precious.bin": b"x"}


def test_a_folder_that_cannot_be_written_is_refused(corpus, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"file/out cannot be written: Not a directory; choose another folder"):
        run(corpus, tmp_path / "file/out")
    with pytest.raises(ConfigError, match=r"file cannot be written: File exists"):
        run(corpus, tmp_path / "file")

    def is_read_only(self, *_args, **_kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", is_read_only)
    with pytest.raises(ConfigError, match="Read-only file system"):
        run(corpus, tmp_path / "out")


def test_two_at_once_in_the_same_folder_are_refused(corpus, tmp_path):
    out = tmp_path / "out"
    with staging.staged(out, overwrite=False), pytest.raises(LockError, match="another process is preparing"):
        run(corpus, out)
    run(corpus, out)


def test_a_lock_that_was_taken_away_meanwhile_does_not_count(corpus, tmp_path, monkeypatch):
    def lock_and_lose(handle, flags):
        (tmp_path / "out/.preparing/lock").unlink()

    monkeypatch.setattr(fcntl, "flock", lock_and_lose)
    with pytest.raises(LockError):
        run(corpus, tmp_path / "out")


def refuse(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Full:
    """A file on a disk that has no room for it."""

    def __init__(self, file):
        self._file = file

    def __getattr__(self, name):
        return refuse if name == "write" else getattr(self._file, name)


def opened(make):
    """`Path.open`, with ``make`` in place of the files that shards are written to."""
    real = Path.open
    return lambda self, mode="r", **options: (make if mode == "x+b" else lambda file: file)(real(self, mode, **options))


DISKS = {
    "that has no room for another file": (Path, "open", lambda: opened(lambda file: (file.close(), refuse()))),
    "that is full": (Path, "open", lambda: opened(Full)),
    "that loses what it took": (os, "fsync", lambda: refuse),
    "that takes no manifest": (staging, "write_new", lambda: refuse),
    "that renames nothing": (Path, "rename", lambda: refuse),
}


@pytest.mark.parametrize("disk", DISKS)
def test_a_disk_that_refuses_leaves_no_dataset(corpus, tmp_path, monkeypatch, disk):
    owner, name, replacement = DISKS[disk]
    monkeypatch.setattr(owner, name, replacement())
    with pytest.raises(DataError, match=r"cannot be written: No space left on device; nothing was kept") as caught:
        run(corpus, tmp_path / "out")
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out").exists()


def test_a_failed_replacement_keeps_the_dataset_that_was_there(corpus, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run(corpus, out)
    before = contents(out)
    monkeypatch.setattr(writer._Shard, "write", lambda self, tokens: (_ for _ in ()).throw(DataError("full")))
    with pytest.raises(DataError):
        run(corpus, out, overwrite=True)
    assert contents(out) == before


SLOW = """
import sys, time
from pathlib import Path
from mypt_dist.data.prepare import PrepareSettings, prepare, staging, text
from mypt_dist.data.prepare.writer import BUFFER_BYTES
where = sys.argv[3]

def wait():
    print("here", flush=True)
    time.sleep(60)

if where == "shards":
    text.Job._held_out = lambda *_: wait()
elif where == "publish":
    staging.write_new = lambda *_: wait()
else:
    rename = Path.rename
    def rename_or_wait(self, target):
        if Path(target).name == where:
            wait()
        return rename(self, target)
    Path.rename = rename_or_wait
settings = PrepareSettings(tokenizer="byte", val_fraction=0.2, overwrite=sys.argv[4] == "overwrite")
prepare([sys.argv[1]], Path(sys.argv[2]), settings)
"""


@pytest.mark.parametrize("overwrite", ["new", "overwrite"])
@pytest.mark.parametrize("where", ["shards", "publish", "train", "val", "dataset.json"])
def test_a_killed_run_leaves_nothing_that_looks_finished_and_the_next_cleans_up(corpus, tmp_path, where, overwrite):
    out = tmp_path / "out"
    if overwrite == "overwrite":
        run(corpus, out, shard_tokens=400)
    command = [sys.executable, "-c", SLOW, str(corpus), str(out), where, overwrite]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)
    if overwrite == "overwrite" and where in ("shards", "publish"):
        # The old dataset is untouched until the new one is complete.
        DatasetManifest.read(out)
        assert all(".preparing" in problem for problem in verify_dataset(out))
    else:
        with pytest.raises(ConfigError, match=r"holds no dataset.json"):
            DatasetManifest.read(out)
    run(corpus, out, overwrite=overwrite == "overwrite")
    assert verify_dataset(out) == []
    assert sorted(path.name for path in out.iterdir()) == ["dataset.json", "train", "val"]


def test_an_interrupted_run_cleans_up_after_itself(corpus, tmp_path):
    def stop(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([corpus], tmp_path / "out", PrepareSettings(tokenizer="byte"), stop)
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_that_was_there_stays(corpus, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        prepare([corpus], tmp_path / "out", progress=lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert list((tmp_path / "out").iterdir()) == []


def test_results_come_in_the_order_of_the_work():
    def task(delay):
        time.sleep(delay)
        return delay

    delays = [0.02, 0.0, 0.01, 0.0, 0.0, 0.015, 0.0]
    assert list(in_order(task, delays, 3)) == delays


def test_work_is_read_only_as_far_ahead_as_needed():
    taken = []

    def work():
        for i in range(1000):
            taken.append(i)
            yield i

    results = in_order(lambda i: i, work(), 2)
    assert next(results) == 0
    assert len(taken) <= 8
    results.close()


def test_the_first_failure_of_a_thread_is_raised():
    def task(number):
        if number == 3:
            raise DataError("three")
        return number

    results = in_order(task, range(100), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="three"):
        next(results)


def test_a_writer_cuts_shards_to_size_and_hashes_what_is_on_the_disk(tmp_path):
    import hashlib

    written = writer.SplitWriter(tmp_path, "train", ByteTokenizer(), 4)
    for length in (1, 0, 9, 2):
        written.write(np.full(length, length, np.uint32), text_bytes=length, documents=1)
    entry = written.close()
    assert [shard.tokens for shard in entry.shards] == [4, 4, 4]
    assert (entry.tokens, entry.bytes, entry.documents) == (12, 12, 4)
    for shard in entry.shards:
        data = (tmp_path / shard.file).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)


def test_a_writer_without_tokens_makes_no_shard(tmp_path):
    assert writer.SplitWriter(tmp_path, "val", ByteTokenizer(), 4).close().shards == ()
    assert list((tmp_path / "val").iterdir()) == []


def test_inputs_may_lie_beside_the_dataset(corpus):
    run(corpus, corpus / "out")
    assert len(list(find_files([corpus]))) == 20
