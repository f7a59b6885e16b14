"""How fast text files become a dataset on disk, against tiktoken's own batch call on the same texts in memory.

    python -m benchmarks.prepare [--rounds 15] [--copies 4] [--json PATH]

The corpus is this Python's own standard library, copied a few times as text files. Both use the GPT-2 encoding, all
cores and a loaded tokenizer, and read from the page cache.

* ours: `mypt_dist.data.prepare.prepare`: find, read, check, hash, tokenize, split, write, hash and fsync
* dedup: the same with exact de-duplication. The copies differ in their first line, so that nothing is dropped
* sources: the same texts as a source of a sources file, with exact de-duplication, able to go on after a kill
* reference: `tiktoken.Encoding.encode_ordinary_batch` of a list of strings, the result dropped
* datasets: Hugging Face datasets' ``map`` on all cores, then one memory-mapped file, as nanoGPT has it
* litdata: its ``optimize`` on all cores with its ``TokensLoader``

The last two where they are installed: ``pip install -e '.[bench,bench-litdata]'``.

Every contestant runs in its own process, in turn within each round. The ratio of a round is reference time over our
time: above 1 we are faster.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.prepare_peers import cores, encoding, time_datasets, time_litdata
from benchmarks.race import Ratio, markdown, write_json

Figures = dict[str, list[float]]


def write_corpus(folder: Path, copies: int) -> None:
    """The standard library as .txt files, ``copies`` times."""
    from mypt_dist.data.prepare import stdlib_files

    for i, source in enumerate(stdlib_files()):
        text = source.read_bytes()
        for copy in range(copies):
            target = folder / f"copy-{copy}" / f"{i:05d}.txt"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(b"# copy %d\n" % copy + text)


def time_ours(corpus: Path, out: Path, *, dedup: bool = False) -> float:
    """Seconds from files to a finished dataset."""
    from mypt_dist.data.prepare import PrepareSettings, prepare
    from mypt_dist.tokenizers import build_tokenizer

    build_tokenizer("gpt2")
    start = time.perf_counter()
    prepare([corpus], out, PrepareSettings(tokenizer="gpt2", dedup=dedup))
    return time.perf_counter() - start


def time_sources(corpus: Path, out: Path) -> float:
    """Seconds from a sources file to a finished mixture."""
    from mypt_dist.data.prepare import PrepareSettings
    from mypt_dist.data.sources import prepare_sources, read_sources
    from mypt_dist.tokenizers import build_tokenizer

    file = out.parent / "sources.json"
    file.write_text(json.dumps({"sources": {"corpus": {"paths": f"{corpus}/**/*.txt"}}}))
    build_tokenizer("gpt2")
    start = time.perf_counter()
    prepare_sources(read_sources(str(file)), out, PrepareSettings(tokenizer="gpt2", dedup=True))
    return time.perf_counter() - start


def time_reference(corpus: Path, _out: Path) -> float:
    """Seconds for the batch call alone; reading and decoding the files is not counted."""
    tokens = encoding()
    texts = [path.read_text(encoding="utf-8") for path in sorted(corpus.rglob("*.txt"))]
    start = time.perf_counter()
    tokens.encode_ordinary_batch(texts, num_threads=cores())
    return time.perf_counter() - start


CONTESTANTS: dict[str, Callable[[Path, Path], float]] = {
    "ours": time_ours,
    "dedup": partial(time_ours, dedup=True),
    "sources": time_sources,
    "reference": time_reference,
    "datasets": time_datasets,
    "litdata": time_litdata,
}
SPEED_TARGETS = {"ours": "≥ 1.1", "dedup": "≥ 1.0", "sources": "≥ 1.0"}
PEERS = [name for name in ("datasets", "litdata") if importlib.util.find_spec(name)]
RACING = [name for name in CONTESTANTS if name in PEERS or name not in ("datasets", "litdata")]
SMALL = "peak_memory_of_one_copy_mb"


def peak_memory_mb() -> float:
    """Highest resident size of this process. Of this program alone, unlike ``ru_maxrss``."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def run_apart(name: str, corpus: Path) -> dict[str, float]:
    """One contestant once, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=corpus.parent) as out:
        command = [sys.executable, "-m", "benchmarks.prepare", "--contestant", name]
        command += ["--corpus", str(corpus), "--out", f"{out}/data"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    # litdata talks on the same stream.
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(rounds: int, copies: int) -> tuple[int, dict[str, Figures]]:
    """Bytes of text, and by contestant the seconds and peak memory of every round."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="prepare-benchmark-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        write_corpus(corpus, copies)
        size = sum(path.stat().st_size for path in corpus.rglob("*.txt"))
        runs: dict[str, Figures] = {name: {"seconds": [], "peak_memory_mb": []} for name in RACING}
        for done in range(rounds):
            # Whoever comes second may find a warmer or a busier machine, so they take turns.
            for name in sorted(RACING, reverse=bool(done % 2)):
                for key, value in run_apart(name, corpus).items():
                    runs[name][key].append(value)
            print(f"round {done + 1} of {rounds}", file=sys.stderr)
        for name in SPEED_TARGETS:
            runs[name][SMALL] = [run_apart(name, corpus / "copy-0")["peak_memory_mb"]]
    return size, runs


def table(size: int, runs: dict[str, Figures]) -> str:
    """The result in Markdown."""
    rows = [
        [
            f"{name}: speed, reference = 1",
            *Ratio.of(runs["reference"]["seconds"], runs[name]["seconds"]).cells(),
            target,
        ]
        for name, target in SPEED_TARGETS.items()
    ]
    rows += [
        [f"ours: speed, {peer} = 1", *Ratio.of(runs[peer]["seconds"], runs["ours"]["seconds"]).cells(), "> 1"]
        for peer in PEERS
    ]
    for name, figures in runs.items():
        rate = median(size / 1e6 / seconds for seconds in figures["seconds"])
        rows.append([f"{name}: MB of text a second", f"{rate:.2f}", "", "", ""])
        target = "< 200" if name in SPEED_TARGETS else ""
        rows.append([f"{name}: peak memory, MB", f"{max(figures['peak_memory_mb']):.1f}", "", "", target])
        if SMALL in figures:
            rows.append([f"{name}: the same for one copy", f"{max(figures[SMALL]):.1f}", "", "", "as much"])
    return markdown(["", "median", "quartiles", "extremes", "target"], rows)


def main() -> None:
    """Measure, or be one contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--copies", type=int, default=4, help="how often the corpus holds the standard library")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    for internal in ("--contestant", "--corpus", "--out"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        seconds = CONTESTANTS[options.contestant](Path(options.corpus), Path(options.out))
        print(json.dumps({"seconds": seconds, "peak_memory_mb": peak_memory_mb()}))
        return
    size, runs = measure(options.rounds, options.copies)
    print(table(size, runs))
    print(
        f"\n{size:,} bytes of text, {cores()} cores, {options.rounds} rounds; memory: the highest of the main process"
    )
    write_json(options.json, {"corpus_bytes": size, "runs": runs})


if __name__ == "__main__":
    main()
