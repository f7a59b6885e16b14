"""Batches of 16 x 1025 tokens in exact order against one NumPy gather of the same shape; opening; seeking.

    python -m benchmarks.loader [--rounds 15] [--json PATH]

* batches: `Loader.step` without the thread that works ahead, so that the work itself is timed, order, audit hash and
  bounds check included, against ``tokens[starts[:, None] + arange(1025)]`` on the same memory-mapped uint16 tokens
* open: a dataset of 10^9 tokens from its folder's name to the first batch; milliseconds and megabytes
* seek: `Order.samples` at step 10^6
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.race import Contestant, Ratio, Turns, markdown, parser, race, write_json

BATCH, CONTEXT = 16, 1024
BATCHES_A_TURN = 2000
TOKENS, SHARDS = 10**9, 10


def make_dataset(folder: Path, tokens: int, shards: int) -> None:
    """A dataset whose shards are sparse files: as long as real ones, but no disk is filled. Hashes are not computed."""
    from mypt_dist.data.manifest import FILE, Counts, DatasetManifest, ShardEntry, SplitEntry, Splits, shard_name
    from mypt_dist.data.shards import HEADER_BYTES, ShardHeader
    from mypt_dist.tokenizers import Gpt2Tokenizer

    tokenizer = Gpt2Tokenizer()
    entries = []
    for number in range(shards):
        size = tokens // shards
        path = folder / shard_name("train", number)
        path.parent.mkdir(parents=True, exist_ok=True)
        header = ShardHeader("uint16", size, tokenizer.vocab_size, tokenizer.fingerprint[:32])
        with path.open("wb") as file:
            file.write(header.pack())
            file.truncate(HEADER_BYTES + 2 * size)
        entries.append(
            ShardEntry(file=shard_name("train", number), bytes=path.stat().st_size, tokens=size, sha256="0" * 64)
        )
    train = SplitEntry(tokens=tokens, documents=1, bytes=4 * tokens, shards=tuple(entries))
    val = SplitEntry(tokens=0, documents=0, bytes=0, shards=())
    manifest = DatasetManifest.create(tokenizer, Splits(train=train, val=val), (), Counts(), {})
    (folder / FILE).write_bytes(manifest.to_bytes())


def fill(folder: Path) -> None:
    """Real pages under a small dataset: reading a hole in a sparse file is not what training does."""
    rng = np.random.default_rng(0)
    for path in sorted(folder.glob("train/*.bin")):
        with path.open("r+b") as file:
            size = path.stat().st_size
            file.seek(64)
            file.write(rng.integers(0, 50257, (size - 64) // 2).astype("<u2").tobytes())


def seal(folder: Path) -> None:
    """Checksums of blocks, which a run compares: what is timed is the steady state, in which all were."""
    from mypt_dist.data.blocks import BlockChecksums
    from mypt_dist.data.manifest import FILE, DatasetManifest

    manifest = DatasetManifest.read(folder)
    entries = []
    for entry in manifest.splits.train.shards:
        blocks = BlockChecksums()
        blocks.update((folder / entry.file).read_bytes())
        entries.append(entry.model_copy(update={"crc32": blocks.hexdigest()}))
    train = manifest.splits.train.model_copy(update={"shards": tuple(entries)})
    splits = manifest.splits.model_copy(update={"train": train})
    sealed = DatasetManifest.create(
        manifest.load_tokenizer(), splits, manifest.sources, manifest.counts, manifest.settings
    )
    (folder / FILE).write_bytes(sealed.to_bytes())


def loader_for(folder: Path, **data_section: Any) -> Callable[[int], object]:
    """``step(position)`` of the data in ``folder``, with everything a run has but the thread ahead.

    ``data_section``: what else stands in the ``data`` section of the run file.
    """
    import torch

    from mypt_dist.data.config import DataConfig
    from mypt_dist.data.loader import BatchShape, Loader, Prefetch
    from mypt_dist.data.mixture import with_mixture
    from mypt_dist.models.gpt import GPTConfig
    from mypt_dist.run.data import open_data
    from mypt_dist.training.config import TrainConfig

    model = GPTConfig(vocab_size=50304, context=CONTEXT, n_layer=1, n_head=1, n_embd=8)
    data = open_data(with_mixture(DataConfig.model_validate({"path": folder, **data_section})), model)
    order = data.order(TrainConfig(steps=10, batch_size=BATCH), CONTEXT)
    shape = BatchShape(BATCH, BATCH, CONTEXT)
    loader = Loader(order, data.gather(50304), shape, device=torch.device("cpu"), ahead=Prefetch(0))
    return loader.step


def ours(folder: Path, turns: Turns, **data_section: Any) -> None:
    """Our batches."""
    step = loader_for(folder, **data_section)
    position, state = 0, "0" * 64
    going = turns.ready()
    while going:
        begin = time.perf_counter()
        for _ in range(BATCHES_A_TURN):
            state = step(position).fold(state)  # type: ignore[attr-defined]
            position += BATCH
        going = turns.done(time.perf_counter() - begin)


def gather(folder: Path, turns: Turns) -> None:
    """One NumPy gather a batch."""
    tokens = np.memmap(sorted(folder.glob("train/*.bin"))[0], dtype="<u2", offset=64, mode="r")
    rng, columns = np.random.default_rng(0), np.arange(CONTEXT + 1)
    going = turns.ready()
    while going:
        begin = time.perf_counter()
        for _ in range(BATCHES_A_TURN):
            starts = rng.integers(0, len(tokens) - CONTEXT - 1, BATCH)
            tokens[starts[:, None] + columns]
        going = turns.done(time.perf_counter() - begin)


def open_large(folder: Path, turns: Turns) -> None:
    """10^9 tokens: seconds to the first batch; what it costs in memory, and a seek, go into the answer."""
    import psutil

    # The tokenizer's tables and NumPy's first calls are not the dataset's: a smaller one has paid for them.
    loader_for(folder / "small")(0)
    process = psutil.Process()
    going = turns.ready()
    while going:
        before, begin = process.memory_info().rss, time.perf_counter()
        step = loader_for(folder / "large")
        step(0)
        opened = time.perf_counter() - begin
        grown = process.memory_info().rss - before
        begin = time.perf_counter()
        step(10**6 * BATCH)
        seek = time.perf_counter() - begin
        going = turns.done(opened, megabytes=grown / 1e6, seek=seek)


CONTESTANTS = {"ours": ours, "gather": gather, "open": open_large}


def main() -> None:
    """Run the race and print the table, or be one contestant."""
    options = parser("Time batches against one NumPy gather.")
    options.add_argument("--contestant", nargs=2, metavar=("NAME", "DATA"))
    arguments = options.parse_args()
    if arguments.contestant:
        name, data = arguments.contestant
        CONTESTANTS[name](Path(data), Turns(sys.stdout))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dataset(folder / "small", 50_000_000, 1)
        fill(folder / "small")
        seal(folder / "small")
        make_dataset(folder / "large", TOKENS, SHARDS)
        contestants = {
            who: Contestant.start(who, "benchmarks.loader", "--contestant", who, str(place))
            for who, place in (("gather", folder / "small"), ("ours", folder / "small"), ("open", folder))
        }
        opened = [contestants["open"].turn() for _ in range(arguments.rounds)]
        seconds = race([contestants["gather"], contestants["ours"]], arguments.rounds)
        for contestant in contestants.values():
            contestant.finish()
        print(report(seconds))
        print(
            f"\n10^9 tokens opened to the first batch, median of {arguments.rounds}: "
            f"{1e3 * statistics.median(turn['seconds'] for turn in opened):.1f} ms, "
            f"{max(turn['megabytes'] for turn in opened):.1f} MB at most; "
            f"seek to step 10^6 and its batch: {1e3 * statistics.median(turn['seek'] for turn in opened):.2f} ms"
        )
        write_json(arguments.json, {"batches": seconds, "opened": opened})


def report(seconds: dict[str, list[float]]) -> str:
    """The table of batches."""
    ratio = Ratio.of(seconds["gather"], seconds["ours"])
    speed = {who: BATCHES_A_TURN * BATCH * CONTEXT / statistics.median(times) for who, times in seconds.items()}
    rows = [
        ["gather", f"{speed['gather'] / 1e6:,.0f}", "1.00", "", "", ""],
        ["ours", f"{speed['ours'] / 1e6:,.0f}", *ratio.cells(), "≥ 0.6"],
    ]
    return markdown(["contestant", "M tokens/s", "speed / gather", "quartiles", "extremes", "target"], rows)


if __name__ == "__main__":
    main()
