"""How long a durable, hashed, committed save and a verified load take against the plain work on the same bytes.

    python -m benchmarks.checkpoint [--rounds 15] [--json PATH]

The state is that of a GPT of 124 M parameters in fp32 with the two moments of AdamW, 1.5 GB, on one process.

* save: `CheckpointStore.save`, against writing the same bytes to one file in blocks of 8 MB and one fsync
* load: `open_checkpoint`, which hashes every file, and reading all tensors into arrays that are there already,
  against mapping the same files and copying their bytes into such arrays; both from the page cache

Every contestant runs in its own process, in turn within each round; a figure is the median of the ratios of
the rounds. Needs 5 GB on the disk of the current folder and 4 GB of memory.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.race import Ratio, markdown, parser, write_json
from mypt_dist.checkpoint import CheckpointStore, FileEntry, Manifest, Segment, TensorEntry, open_checkpoint
from mypt_dist.checkpoint.layout import MANIFEST, step_name
from mypt_dist.world import Solo

Arrays = dict[str, NDArray[np.float32]]

LAYERS, WIDTH, VOCABULARY, CONTEXT = 12, 768, 50304, 1024
BLOCK = 8 << 20
TARGETS = {"save": 1.5, "load": 4.0}


def shapes() -> dict[str, tuple[int, ...]]:
    """Parameters of the GPT, by name."""
    found: dict[str, tuple[int, ...]] = {"token.weight": (VOCABULARY, WIDTH), "position.weight": (CONTEXT, WIDTH)}
    for layer in range(LAYERS):
        block = f"blocks.{layer}"
        found |= {f"{block}.{norm}.{part}": (WIDTH,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
        found |= {f"{block}.qkv.weight": (3 * WIDTH, WIDTH), f"{block}.qkv.bias": (3 * WIDTH,)}
        found |= {f"{block}.out.weight": (WIDTH, WIDTH), f"{block}.out.bias": (WIDTH,)}
        found |= {f"{block}.up.weight": (4 * WIDTH, WIDTH), f"{block}.up.bias": (4 * WIDTH,)}
        found |= {f"{block}.down.weight": (WIDTH, 4 * WIDTH), f"{block}.down.bias": (WIDTH,)}
    return found | {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}


def state() -> Arrays:
    """Weights and both moments, of random bytes that no disk can compress."""
    generator = np.random.default_rng(0)
    kinds = ("model", "optimizer/exp_avg", "optimizer/exp_avg_sq")
    return {
        f"{kind}/{name}": generator.random(shape, dtype=np.float32)
        for kind in kinds
        for name, shape in shapes().items()
    }


def describe(files: Mapping[str, FileEntry], tensors: Mapping[str, TensorEntry]) -> Manifest:
    """A manifest of which only files and tensors matter here."""
    return Manifest(
        step=1,
        tokens=0,
        samples=0,
        order_hash="",
        data={},
        seed=0,
        world_size=1,
        engine={},
        run={},
        code={},
        files=dict(files),
        tensors=dict(tensors),
    )


def save_ours(folder: Path) -> float:
    """Seconds until the checkpoint would survive a power cut."""
    arrays = state()
    store = CheckpointStore(folder / "ours", Solo())
    segments = [Segment(name, a.shape, "F32", 0, a.size, partial(getattr, a, "data")) for name, a in arrays.items()]
    return seconds(lambda: store.save(1, segments, rank_state={}, files={}, describe=describe))


def save_plain(folder: Path) -> float:
    """Seconds until one file of the same bytes would."""
    arrays = state()

    def write() -> None:
        with (folder / "plain").open("wb", buffering=0) as file:
            for array in arrays.values():
                view = array.data.cast("B")
                for begin in range(0, view.nbytes, BLOCK):
                    file.write(view[begin : begin + BLOCK])
            os.fsync(file.fileno())

    return seconds(write)


def load_ours(folder: Path) -> float:
    """Seconds until all tensors are in place, every byte verified before."""
    path = folder / "ours" / step_name(1)
    arrays = state()
    warm(path)

    def read() -> None:
        with open_checkpoint(path) as checkpoint:
            for name, array in arrays.items():
                checkpoint.read_into(name, 0, array.size, array.data)

    return seconds(read)


def load_plain(folder: Path) -> float:
    """Seconds until the bytes of the same files are in arrays, copied from a mapping of each."""
    files = warm(folder / "ours" / step_name(1))
    places = [np.ones(file.stat().st_size, dtype=np.uint8) for file in files]

    def read() -> None:
        for file, place in zip(files, places, strict=True):
            np.copyto(place, np.memmap(file, dtype=np.uint8, mode="r"))

    return seconds(read)


def warm(folder: Path) -> list[Path]:
    """The files of tensors, once they are in the page cache."""
    files = sorted(folder.glob("*/*.safetensors"))
    for file in [*files, folder / MANIFEST]:
        file.read_bytes()
    return files


def seconds(action: Callable[[], object]) -> float:
    """Duration of ``action``, begun when the disk has nothing left to do."""
    os.sync()
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


CONTESTANTS = {"save": (save_ours, save_plain), "load": (load_ours, load_plain)}


def take_turns(folder: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of us and of the plain work, by round. Who goes first changes from round to round."""
    times: dict[str, list[tuple[float, float]]] = {work: [] for work in CONTESTANTS}
    for turn in range(rounds):
        for work in CONTESTANTS:
            taken = {}
            for who in ("ours", "plain") if turn % 2 else ("plain", "ours"):
                if (work, who) == ("save", "ours"):
                    shutil.rmtree(folder / "ours", ignore_errors=True)
                taken[who] = in_own_process(f"{work}-{who}", folder)
                (folder / "plain").unlink(missing_ok=True)
            times[work].append((taken["ours"], taken["plain"]))
        print(f"round {turn + 1} of {rounds}", file=sys.stderr)
    return times


def in_own_process(contestant: str, folder: Path) -> float:
    """Seconds that ``contestant`` reports."""
    command = [sys.executable, "-m", "benchmarks.checkpoint", "--contestant", contestant, "--folder", str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def medians(pairs: list[tuple[float, float]]) -> list[str]:
    """Of our times and of the plain ones, for a table."""
    return [f"{statistics.median(seconds):.2f} s" for seconds in zip(*pairs, strict=True)]


def main() -> None:
    """Run the rounds and print the table, or be one contestant and print its seconds."""
    options = parser("Time a verified checkpoint against the plain work on its bytes.")
    options.add_argument("--contestant", help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.contestant:
        work, _, who = arguments.contestant.partition("-")
        print(CONTESTANTS[work][who == "plain"](arguments.folder))
        return
    # Ended by a signal, 3 GB must not stay on the disk.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="checkpoint-benchmark-", dir=Path.cwd()) as folder:
        times = take_turns(Path(folder), arguments.rounds)
    ratios = {work: Ratio.of(*zip(*pairs, strict=True)) for work, pairs in times.items()}
    rows = [[work, *medians(times[work]), *ratios[work].cells(), f"≤ {TARGETS[work]}"] for work in times]
    print(markdown(["work", "ours", "plain", "ratio", "quartiles", "extremes", "target"], rows))
    print(f"\nMedians of {arguments.rounds} rounds, {os.cpu_count()} cores.")
    write_json(arguments.json, {"seconds": times, "ratios": {work: asdict(ratio) for work, ratio in ratios.items()}})


if __name__ == "__main__":
    main()
