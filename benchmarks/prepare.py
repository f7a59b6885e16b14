"""How fast text files become a dataset on disk, against tiktoken's own batch call on the same texts in memory.

    python benchmarks/prepare.py [--rounds 15] [--copies 4] [--json PATH]

The corpus is this Python's own standard library, copied a few times as text files. Both use the GPT-2 encoding, all
cores and a loaded tokenizer, and read from the page cache.

* ours: `mypt_dist.data.prepare.prepare`: find, read, check, hash, tokenize, split, write, hash and fsync
* reference: `tiktoken.Encoding.encode_ordinary_batch` of a list of strings, the result dropped

Every contestant runs in its own process, in turn within each round. The ratio of a round is reference time over our
time: above 1 we are faster.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def write_corpus(folder: Path, copies: int) -> None:
    """The standard library as .txt files, ``copies`` times."""
    from mypt_dist.data.prepare import stdlib_files

    for i, source in enumerate(stdlib_files()):
        text = source.read_bytes()
        for copy in range(copies):
            target = folder / f"copy-{copy}" / f"{i:05d}.txt"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(text)


def time_ours(corpus: Path, out: Path) -> float:
    """Seconds from files to a finished dataset."""
    from mypt_dist.data.prepare import PrepareSettings, prepare
    from mypt_dist.tokenizers import build_tokenizer

    build_tokenizer("gpt2")
    start = time.perf_counter()
    prepare([corpus], out, PrepareSettings(tokenizer="gpt2"))
    return time.perf_counter() - start


def time_reference(corpus: Path, _out: Path) -> float:
    """Seconds for the batch call alone; reading and decoding the files is not counted."""
    import tiktoken
    from tiktoken_ext.openai_public import r50k_pat_str

    from mypt_dist.tokenizers.gpt2 import merge_ranks

    specials = {"<|endoftext|>": 50256}
    encoding = tiktoken.Encoding("r50k", pat_str=r50k_pat_str, mergeable_ranks=merge_ranks(), special_tokens=specials)
    texts = [path.read_text(encoding="utf-8") for path in sorted(corpus.rglob("*.txt"))]
    cores = len(os.sched_getaffinity(0))
    start = time.perf_counter()
    encoding.encode_ordinary_batch(texts, num_threads=cores)
    return time.perf_counter() - start


CONTESTANTS: dict[str, Callable[[Path, Path], float]] = {"ours": time_ours, "reference": time_reference}


def peak_memory_mb() -> float:
    """Highest resident size of this process. Of this program alone, unlike ``ru_maxrss``."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def run_apart(name: str, corpus: Path) -> dict[str, float]:
    """One contestant once, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=corpus.parent) as out:
        command = [sys.executable, __file__, "--contestant", name, "--corpus", str(corpus), "--out", f"{out}/data"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def spread(values: Sequence[float]) -> dict[str, float]:
    """Five numbers that describe ``values``."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"min": min(values), "q1": low, "median": median, "q3": high, "max": max(values)}


def measure(rounds: int, copies: int) -> dict[str, object]:
    """All rounds."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="prepare-benchmark-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        write_corpus(corpus, copies)
        size = sum(path.stat().st_size for path in corpus.rglob("*.txt"))
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
        for done in range(rounds):
            # Whoever comes second may find a warmer or a busier machine, so they take turns.
            for name in sorted(CONTESTANTS, reverse=bool(done % 2)):
                runs[name].append(run_apart(name, corpus))
            ratio = runs["reference"][-1]["seconds"] / runs["ours"][-1]["seconds"]
            print(f"round {done + 1} of {rounds}: {ratio:.3f}", file=sys.stderr)
    ratios = [theirs["seconds"] / ours["seconds"] for theirs, ours in zip(runs["reference"], runs["ours"], strict=True)]
    return {
        "rounds": rounds,
        "cores": len(os.sched_getaffinity(0)),
        "corpus_bytes": size,
        "ratio": spread(ratios),
        **{
            name: {
                "mb_per_s": spread([size / 1e6 / run["seconds"] for run in runs[name]]),
                "peak_memory_mb": spread([run["peak_memory_mb"] for run in runs[name]]),
            }
            for name in CONTESTANTS
        },
    }


def table(result: dict[str, object]) -> str:
    """The result in Markdown."""
    rows = [("speed, reference = 1", result["ratio"], "≥ 1.1")]
    for name in CONTESTANTS:
        figures = result[name]
        assert isinstance(figures, dict)
        rows.append((f"{name}: MB of text a second", figures["mb_per_s"], ""))
        rows.append((f"{name}: peak memory, MB", figures["peak_memory_mb"], "< 150" if name == "ours" else ""))
    lines = ["| | min | quartile | median | quartile | max | target |", "|---|--:|--:|--:|--:|--:|--:|"]
    for title, numbers, target in rows:
        assert isinstance(numbers, dict)
        digits = 3 if "speed" in title else 1
        cells = [f"{numbers[key]:.{digits}f}" for key in ("min", "q1", "median", "q3", "max")]
        lines.append(f"| {' | '.join([title, *cells, target])} |")
    return "\n".join(lines)


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
    result = measure(options.rounds, options.copies)
    print(f"{result['corpus_bytes']:,} bytes of text, {result['cores']} cores, {result['rounds']} rounds\n")
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
