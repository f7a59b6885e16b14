"""A preparation of sources that is killed at any moment: called again, it comes to the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prepare_corpus import files_of, text_of

PREPARE = """
import sys, time
from pathlib import Path
from mypt_dist.data.prepare import PrepareSettings, assembly, journal
from mypt_dist.data.sources import PrepareOptions, prepare_sources, read_sources

folder, out, pause = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
journal.SAVE_EVERY_BYTES = 20_000
take = assembly.Assembly.take
# Slow enough that a kill finds something to kill.
assembly.Assembly.take = lambda self, outcome: (time.sleep(pause), take(self, outcome))[1]
settings = PrepareSettings(tokenizer="byte", val_fraction=0.1, shard_tokens=30_000, workers=2)
print("ready", flush=True)
prepare_sources(read_sources(str(folder / "s.json")), out / "data", settings, PrepareOptions(rejects=out / "rejects"))
print("done", flush=True)
"""
ROUNDS = 2 if os.environ.get("MYPT_SOAK") != "1" else 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    for i in range(90):
        (folder / f"{i:02}.txt").write_text(text_of(i % 80, 300))
    (folder / "lines.jsonl").write_text("".join(json.dumps({"text": text_of(i, 200)}) + "\n" for i in range(400)))
    duplicates = [{"type": "exact_duplicates"}, {"type": "near_duplicates", "memory_mb": 1}]
    sources = {"files": {"paths": "*.txt"}, "lines": {"paths": "lines.jsonl"}}
    (folder / "s.json").write_text(json.dumps({"filters": duplicates, "sources": sources}))
    return folder


def start(corpus: Path, out: Path, pause: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PREPARE, str(corpus), str(out), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def finish(corpus: Path, out: Path) -> None:
    with start(corpus, out, 0) as process:
        said, _ = process.communicate(timeout=200)
    assert said.endswith("done\n")


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("whole")
    finish(corpus, out)
    return files_of(out)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_killed_at_random_moments_it_comes_to_the_same_bytes(
    corpus: Path, whole: dict[str, str], memory: Path, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(2):
        with start(corpus, memory, 0.01) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0, 0.9))
            process.send_signal(signal.SIGKILL)
        for manifest in memory.glob("data/*/dataset.json"):
            name = str(manifest.relative_to(memory))
            assert files_of(manifest.parent)["dataset.json"] == whole[name], "what looks finished is"
    finish(corpus, memory)
    assert files_of(memory) == whole
