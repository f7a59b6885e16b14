"""Batches of 16 x 1025 tokens from three sources under a curriculum, and opening 10^12 tokens.

    python -m benchmarks.mixture [--rounds 15] [--json PATH]

* batches: as in `benchmarks.loader`, from a mixture of three datasets whose weights change within every turn, against
  one NumPy gather of the same shape, against our own batches from one dataset, and against litdata's combined datasets
  where that is installed (``pip install -e '.[bench-litdata]'``)
* open: a mixture of three datasets with 10^12 tokens in all from its folder's name to the first batch under a
  curriculum, with checksums of blocks (15 MB of them in the manifests) and without; milliseconds and megabytes
"""

import importlib.util
import json
import statistics
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from benchmarks.loader import BATCH, BATCHES_A_TURN, CONTEXT, fill, gather, loader_for, make_dataset, ours, seal
from benchmarks.race import Contestant, Ratio, Turns, markdown, parser, race, write_json

WEIGHTS = {"web": 0.6, "code": 0.3, "books": 0.1}
CURRICULUM = [
    {"until_step": 500, "weights": {"web": 0.9, "code": 0.1}},
    *({"until_step": 1000 * n, "weights": {"web": 90 - 2 * n, "code": 2 * n, "books": 10}} for n in range(1, 41)),
]
TOKENS = 10**12
SHARDS = 20
"""Of each source with 10^12 / 3 tokens."""


def make_mixture(folder: Path, tokens: int, shards: int) -> None:
    """Three equal datasets and the file that lists them."""
    for name in WEIGHTS:
        make_dataset(folder / name, tokens // 3 // shards * shards, shards)
    sources = [{"name": name, "path": name, "weight": weight} for name, weight in WEIGHTS.items()]
    content = {"format": "mypt-mixture", "version": 1, "sources": sources}
    (folder / "mixture.json").write_text(json.dumps(content))


def seal_holes(folder: Path) -> None:
    """As `seal`, for shards that are holes: the checksums of zeros are known without reading them."""
    from mypt_dist.data.blocks import BLOCK_BYTES, DIGITS
    from mypt_dist.data.manifest import FILE, HEADER_BYTES, DatasetManifest

    manifest = DatasetManifest.read(folder)
    whole = zlib.crc32(bytes(BLOCK_BYTES))
    entries = []
    for entry in manifest.splits.train.shards:
        with (folder / entry.file).open("rb") as file:
            header = file.read(HEADER_BYTES)
        first = zlib.crc32(header + bytes(BLOCK_BYTES - HEADER_BYTES))
        last = zlib.crc32(bytes(entry.bytes % BLOCK_BYTES or BLOCK_BYTES))
        crcs = [first, *[whole] * ((entry.bytes - 1) // BLOCK_BYTES - 1), last]
        entries.append(entry.model_copy(update={"crc32": "".join(f"{crc:0{DIGITS}x}" for crc in crcs)}))
    train = manifest.splits.train.model_copy(update={"shards": tuple(entries)})
    splits = manifest.splits.model_copy(update={"train": train})
    sealed = DatasetManifest.create(manifest.load_tokenizer(), splits, (), manifest.counts, manifest.settings)
    (folder / FILE).write_bytes(sealed.to_bytes())


def mixed(folder: Path, turns: Turns) -> None:
    """Our batches from three sources under a curriculum."""
    ours(folder, turns, phases=CURRICULUM)


def litdata(folder: Path, turns: Turns) -> None:
    """litdata's, by its own three sources of the same tokens. Its weights do not change."""
    import torch
    from litdata import CombinedStreamingDataset, StreamingDataset, TokensLoader

    def dataset(name: str) -> StreamingDataset:
        return StreamingDataset(
            str(folder / f"{name}-litdata"), item_loader=TokensLoader(CONTEXT + 1), shuffle=True, drop_last=True
        )

    windows = iter(())
    going = turns.ready()
    while going:
        begin = time.perf_counter()
        for _ in range(BATCHES_A_TURN):
            batch = []
            while len(batch) < BATCH:
                window = next(windows, None)
                if window is None:
                    sources = [dataset(name) for name in WEIGHTS]
                    windows = iter(
                        CombinedStreamingDataset(sources, weights=[*WEIGHTS.values()], iterate_over_all=False)
                    )
                else:
                    batch.append(window)
            torch.from_numpy(np.stack(batch).astype(np.int64))
        going = turns.done(time.perf_counter() - begin)


def write_litdata(folder: Path) -> None:
    """The tokens of the three datasets as litdata keeps them."""
    from litdata import TokensLoader
    from litdata.streaming import Cache

    for name in WEIGHTS:
        out = folder / f"{name}-litdata"
        out.mkdir()
        cache = Cache(str(out), chunk_bytes="64MB", item_loader=TokensLoader(CONTEXT + 1))
        tokens = np.fromfile(sorted((folder / name).glob("train/*.bin"))[0], dtype="<u2", offset=64)
        for number, part in enumerate(np.split(tokens, range(1 << 20, len(tokens), 1 << 20))):
            cache._add_item(number, part)
        cache.done()
        cache.merge()


def open_mixture(folder: Path, turns: Turns) -> None:
    """10^12 tokens: seconds to the first batch; what it costs in memory goes into the answer."""
    import psutil

    # The tokenizer's tables and NumPy's first calls are not the dataset's: a smaller one has paid for them.
    loader_for(folder.parent / "small", phases=CURRICULUM)(0)
    process = psutil.Process()
    going = turns.ready()
    while going:
        before, begin = process.memory_info().rss, time.perf_counter()
        step = loader_for(folder, phases=CURRICULUM)
        step(0)
        going = turns.done(time.perf_counter() - begin, megabytes=(process.memory_info().rss - before) / 1e6)


OPENED = {"sealed": "with checksums", "plain": "without checksums"}
CONTESTANTS = {
    "mixed": mixed,
    "ours": ours,
    "gather": gather,
    "litdata": litdata,
    **dict.fromkeys(OPENED, open_mixture),
}


def main() -> None:
    """Run the race and print the table, or be one contestant."""
    options = parser("Time batches of a mixture against one NumPy gather and litdata.")
    options.add_argument("--contestant", nargs=2, metavar=("NAME", "DATA"))
    arguments = options.parse_args()
    if arguments.contestant:
        name, data = arguments.contestant
        CONTESTANTS[name](Path(data), Turns(sys.stdout))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_mixture(folder / "small", 48_000_000, 1)
        for kind in OPENED:
            make_mixture(folder / kind, TOKENS, SHARDS)
        for source in WEIGHTS:
            fill(folder / "small" / source)
            seal(folder / "small" / source)
            seal_holes(folder / "sealed" / source)
        places = {"gather": "small/web", "mixed": "small", "ours": "small/web", **{kind: kind for kind in OPENED}}
        if importlib.util.find_spec("litdata"):
            write_litdata(folder / "small")
            places["litdata"] = "small"
        contestants = {
            who: Contestant.start(who, "benchmarks.mixture", "--contestant", who, str(folder / place))
            for who, place in places.items()
        }
        opened = {kind: [contestants[kind].turn() for _ in range(arguments.rounds)] for kind in OPENED}
        seconds = race([one for who, one in contestants.items() if who not in OPENED], arguments.rounds)
        for contestant in contestants.values():
            contestant.finish()
        print(report(seconds))
        for kind, turns in opened.items():
            print(
                f"\n10^12 tokens of three sources {OPENED[kind]}, opened to the first batch, median of "
                f"{arguments.rounds}: {1e3 * statistics.median(turn['seconds'] for turn in turns):.1f} ms, "
                f"{max(turn['megabytes'] for turn in turns):.1f} MB at most"
            )
        write_json(arguments.json, {"batches": seconds, "opened": opened})


def report(seconds: dict[str, list[float]]) -> str:
    """The table of batches: how much faster the mixture is than each of the others."""
    targets = {"gather": "≥ 0.5", "litdata": "≥ 2"}
    speed = {who: BATCHES_A_TURN * BATCH * CONTEXT / statistics.median(times) / 1e6 for who, times in seconds.items()}
    rows = [
        [
            f"mixed / {who}",
            f"{speed['mixed']:,.0f}",
            f"{speed[who]:,.0f}",
            *Ratio.of(times, seconds["mixed"]).cells(),
            targets.get(who, ""),
        ]
        for who, times in seconds.items()
        if who != "mixed"
    ]
    return markdown(["ratio", "M tokens/s", "of the other", "speed / other", "quartiles", "extremes", "target"], rows)


if __name__ == "__main__":
    main()
