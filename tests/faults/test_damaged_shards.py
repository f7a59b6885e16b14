"""Token shards that change, shrink or cannot be read under a run: found before anything is learned from them."""

import errno
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counted import SOAK, count

from mypt_dist.data.ahead import WorkAhead
from mypt_dist.data.batch import IGNORE
from mypt_dist.data.blocks import BLOCK_BYTES
from mypt_dist.data.files import Calls, Patience, PatientFiles
from mypt_dist.data.loader import BatchShape, Loader, Prefetch, TokenGather
from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.data.order import GENESIS, Order, SourceShape
from mypt_dist.data.prepare import PrepareSettings, prepare
from mypt_dist.data.shard_tokens import Reader
from mypt_dist.data.stream import Reading, TokenStream
from mypt_dist.data.verify import verify_dataset
from mypt_dist.errors import DataError

READERS: tuple[Reader, ...] = ("memmap", "pread")
CONTEXT = 16


def make_dataset(folder: Path, characters: int, shard_tokens: int = 100_000_000) -> Path:
    text = folder / "text.txt"
    rng = np.random.default_rng(0)
    text.write_bytes(rng.integers(97, 123, characters, dtype=np.uint8).tobytes())
    prepare([text], folder / "data", PrepareSettings(tokenizer="byte", val_fraction=0.0, shard_tokens=shard_tokens))
    return folder / "data"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of some hundred bytes."""
    return make_dataset(tmp_path_factory.mktemp("small"), 300, shard_tokens=200)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """One shard of several blocks."""
    return make_dataset(tmp_path, 2_000_000)


def read_all(folder: Path, reading: Reading, files: PatientFiles | None = None) -> TokenStream:
    """Every token, in windows."""
    stream = TokenStream.open(folder, DatasetManifest.read(folder), "train", reading)
    return gather_all(stream)


def gather_all(stream: TokenStream) -> TokenStream:
    starts = np.arange(0, len(stream) - CONTEXT, CONTEXT + 1)
    every = [*starts.tolist(), len(stream) - CONTEXT - 1]
    stream.gather(every, np.empty((len(every), CONTEXT + 1), dtype=np.int64))
    return stream


def flipped(path: Path, position: int, mask: int) -> Callable[[], None]:
    """Change one byte; the function returned changes it back."""

    def flip() -> None:
        with path.open("r+b") as file:
            file.seek(position)
            (byte,) = file.read(1)
            file.seek(position)
            file.write(bytes([byte ^ mask]))

    flip()
    return flip


def test_every_flipped_byte_of_a_shard_is_found_when_it_is_read(small: Path, large: Path) -> None:
    found = 0
    shards = sorted(small.glob("train/*.bin"))
    positions = [(path, position) for path in shards for position in range(path.stat().st_size)]
    masks = [1 << bit for bit in range(8)] if SOAK else []
    (big,) = large.glob("train/*.bin")
    rng = np.random.default_rng(1)
    for folder, path, position in [
        *((small, path, position) for path, position in positions),
        *((large, big, int(position)) for position in rng.integers(0, big.stat().st_size, 200 if SOAK else 20)),
    ]:
        for mask in masks or [1 << position % 8]:
            restore = flipped(path, position, mask)
            for reader in READERS:
                with pytest.raises(DataError, match=r"(?s)shard-0000.*(block|header|magic|not a token shard|format)"):
                    read_all(folder, Reading(reader))
                found += 1
            restore()
    for reader in READERS:
        read_all(small, Reading(reader))
    count(
        "flipped bytes in token shards",
        "an error at the first read, with shard, block and offset",
        found=found,
        missed=0,
    )


def test_without_checksums_of_blocks_most_flips_go_unnoticed(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: an older dataset, which still opens."""
    manifest = DatasetManifest.read(small)
    shards = tuple(entry.model_copy(update={"crc32": None}) for entry in manifest.splits.train.shards)
    train = manifest.splits.train.model_copy(update={"shards": shards})
    older = manifest.model_copy(update={"splits": manifest.splits.model_copy(update={"train": train})})
    missed = 0
    path = small / shards[0].file
    for position in range(64, path.stat().st_size, 2):
        restore = flipped(path, position, 1)
        gather_all(TokenStream.open(small, older, "train"))
        missed += 1
        restore()
    assert missed == shards[0].tokens


def test_the_error_names_shard_block_and_offset_and_so_does_verify(large: Path) -> None:
    (path,) = large.glob("train/*.bin")
    flipped(path, 2 * BLOCK_BYTES + 5, 4)
    with pytest.raises(DataError, match=r"shard-00000\.bin: block 2 \(bytes 2,097,152 to 3,145,727\) is damaged"):
        read_all(large, Reading())
    problem, *_ = verify_dataset(large)
    assert "(damaged blocks of 1 MiB: 2)" in problem


@pytest.mark.parametrize("seen", [False, True])
def test_a_shard_cut_short_is_an_error_and_not_a_signal(large: Path, seen: bool) -> None:
    stream = TokenStream.open(large, DatasetManifest.read(large), "train", Reading("pread"))
    if seen:
        gather_all(stream)
    (path,) = large.glob("train/*.bin")
    with path.open("r+b") as file:
        file.truncate(BLOCK_BYTES + 100)
    with pytest.raises(DataError, match=r"was cut short while in use: it has 1,048,676 bytes, it had 4,"):
        gather_all(stream)


MAPPED_AND_CUT = """
import sys
import numpy as np
from pathlib import Path
from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.data.stream import Reading, TokenStream
folder, seen = Path(sys.argv[1]), sys.argv[2] == "seen"
stream = TokenStream.open(folder, DatasetManifest.read(folder), "train", Reading("memmap"))
out = np.empty((1, len(stream)), dtype=np.int64)
if seen:
    stream.gather([0], out)
(path,) = folder.glob("train/*.bin")
with path.open("r+b") as file:
    file.truncate(1 << 20)
stream.gather([0], out)
"""


def test_the_twin_a_mapped_shard_cut_short_after_its_check_kills_the_process(large: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MAPPED_AND_CUT, str(large), "seen"], capture_output=True, check=False)
    assert done.returncode == -signal.SIGBUS, "this is why there is data.reader=pread"


def test_a_mapped_shard_cut_short_before_its_check_is_an_error(large: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MAPPED_AND_CUT, str(large), "new"], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"was cut short while in use" in done.stderr


class FailingCalls(Calls):
    """Reads fail ``failures`` times with ``number``; or are cut to ``at_most`` bytes."""

    def __init__(self, failures: int, number: int, at_most: int = 1 << 30) -> None:
        self.failures, self.number, self.at_most = failures, number, at_most
        self.opened = self.closed = 0

    def open(self, path: Path) -> int:
        self.opened += 1
        return super().open(path)

    def close(self, descriptor: int) -> None:
        self.closed += 1
        super().close(descriptor)

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        if self.failures:
            self.failures -= 1
            raise OSError(self.number, "injected")
        return super().pread(descriptor, min(length, self.at_most), offset)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EINTR, errno.ETIMEDOUT])
@pytest.mark.parametrize("failures", [0, 1, 4, 5])
def test_a_disk_that_fails_for_a_while_is_waited_for(tmp_path: Path, failures: int, number: int) -> None:
    path = tmp_path / "shard"
    path.write_bytes(bytes(range(200)))
    calls, slept = FailingCalls(failures, number), list[float]()
    files = PatientFiles(Patience(sleep=slept.append), calls)
    if failures > len(Patience().waits):
        with pytest.raises(DataError, match=r"shard cannot be read at byte 100: injected \(5 attempts\)"):
            files.read(path, 200, 100, 50)
    else:
        assert files.read(path, 200, 100, 50) == bytes(range(100, 150))
    assert slept == list(Patience().waits[:failures])
    assert calls.opened == min(failures, 4) + 1, "a stale handle is not used again"
    files.close()
    assert calls.opened == calls.closed


def test_a_lack_of_permission_is_not_waited_for(tmp_path: Path) -> None:
    calls, slept = FailingCalls(1, errno.EACCES), list[float]()
    (tmp_path / "shard").write_bytes(bytes(10))
    with pytest.raises(DataError, match="1 attempts"):
        PatientFiles(Patience(sleep=slept.append), calls).read(tmp_path / "shard", 10, 0, 10)
    assert slept == []


def test_short_reads_are_put_together(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_bytes(bytes(range(200)))
    assert PatientFiles(calls=FailingCalls(0, 0, at_most=7)).read(path, 200, 3, 150) == bytes(range(3, 153))


def test_only_so_many_files_stay_open(tmp_path: Path) -> None:
    calls = FailingCalls(0, 0)
    files = PatientFiles(calls=calls)
    for number in range(100):
        path = tmp_path / str(number)
        path.write_bytes(b"x")
        assert files.read(path, 1, 0, 1) == b"x"
    assert calls.opened - calls.closed == 64


def skipping_loader(folder: Path, shape: BatchShape, reader: Reader) -> Loader:
    stream = TokenStream.open(folder, DatasetManifest.read(folder), "train", Reading(reader, "skip"))
    order = Order([SourceShape("main", len(stream))], context=shape.context, seed=0)
    gather = TokenGather([stream], np.ones(300, dtype=np.uint16), 300)
    return Loader(order, gather, shape, device=torch.device("cpu"), ahead=Prefetch(0))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("ranks", "micro"), [(1, 8), (2, 4), (4, 1), (8, 1)])
def test_skipped_windows_are_the_same_on_any_number_of_ranks(
    large: Path, reader: Reader, ranks: int, micro: int
) -> None:
    context = 1023
    whole = [skipping_loader(large, BatchShape(8, 8, context), "memmap").step(8 * i) for i in range(20)]
    (path,) = large.glob("train/*.bin")
    flipped(path, BLOCK_BYTES + 70_000, 1)
    loaders = [skipping_loader(large, BatchShape(8, micro, context, rank, ranks), reader) for rank in range(ranks)]
    learned = skipped = 0
    for i, right in enumerate(whole):
        steps = [loader.step(8 * i) for loader in loaders]
        assert all(step.fold(GENESIS) == right.fold(GENESIS) for step in steps), "the order does not change"
        labels = torch.cat([batch.labels for step in steps for batch in step.micro_batches])
        start = torch.from_numpy(right.samples.start)
        damaged = (64 + 2 * (start + context + 1) > BLOCK_BYTES) & (64 + 2 * start < 2 * BLOCK_BYTES)
        assert torch.equal((labels == IGNORE).all(dim=1), damaged)
        assert torch.equal(labels[~damaged], right.micro_batches[0].labels[~damaged])
        assert sum(step.skipped for step in steps) == int(damaged.sum())
        targets = sum(batch.num_targets for step in steps for batch in step.micro_batches)
        assert targets == int((~damaged).sum()) * context
        named = {block for step in steps for block in step.damaged}
        assert named == ({"main:train/shard-00000.bin:1"} if damaged.any() else set())
        skipped, learned = skipped + int(damaged.sum()), learned + int((~damaged).sum())
    assert skipped > 20
    assert learned > 20


def test_what_a_checkpoint_knows_to_be_damaged_is_skipped_after_a_repair(large: Path) -> None:
    stream = TokenStream.open(large, DatasetManifest.read(large), "train", Reading("memmap", "skip"))
    stream.mark_damaged(["main:train/shard-00000.bin:0", "other:train/shard-00000.bin:1", "main:nonsense", "main:x:99"])
    out = np.empty((2, 10), dtype=np.int64)
    assert stream.gather([5, 600_000], out) == {0: ["main:train/shard-00000.bin:0"]}


@pytest.fixture
def ends() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_loader_thread_that_hangs_is_given_up_and_named(ends: threading.Event) -> None:
    ahead = WorkAhead(lambda position: ends.wait(60), timeout_s=0.2)
    with pytest.raises(DataError, match=r"the thread 'loader' has not read its data for 0\.2 s \(sample 8\)"):
        ahead.result(8, [])


@pytest.mark.parametrize("error", [KeyError("x"), MemoryError(), OSError(5, "Input/output error")])
def test_a_loader_thread_that_fails_is_named(error: Exception) -> None:
    def fail(position: int) -> Any:
        raise error

    ahead = WorkAhead(fail, timeout_s=60)
    with pytest.raises(DataError, match=f"the thread 'loader' failed at sample 0: {type(error).__name__}"):
        ahead.result(0, [8])
    ahead.close()
