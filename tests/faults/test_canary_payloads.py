"""Every file the program accepts, with content that executes whoever reads it carelessly. Nothing may execute."""

import gzip
import hashlib
import json
import lzma
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from canary_payloads import whole_files, with_values
from counted import count

from mypt_dist.checkpoint.manifest import _self_hash, _spell
from mypt_dist.data.canonical import canonical_hash

HERE = Path(__file__).parent
LAUNCH = HERE.parents[1] / "launch"


@dataclass
class Baits:
    """Files to be opened by another process, in a folder of their own each."""

    folder: Path
    canary: Path
    warm: list[tuple[str, str]] = field(default_factory=list)
    opened: list[tuple[str, str]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    _places: int = 0

    def place(self) -> Path:
        self._places += 1
        path = self.folder / f"{self._places:05d}"
        path.mkdir()
        return path

    def add(self, opener: str, path: Path, name: str) -> None:
        self.opened.append((opener, str(path)))
        self.names.append(f"{opener}: {name}")

    def file(self, opener: str, name: str, content: bytes, suffix: str = "") -> None:
        path = self.place() / f"file{suffix}"
        path.write_bytes(content)
        self.add(opener, path, name)

    def copy(self, opener: str, good: Path, name: str, change: Callable[[Path], None]) -> None:
        path = self.place() / good.name
        shutil.copytree(good, path, copy_function=os.link)
        change(path)
        self.add(opener, path, name)

    def outcomes(self) -> list[dict[str, Any]]:
        """What became of each, in order; and the names of all."""
        (self.folder / "baits.json").write_text(json.dumps({"warm": self.warm, "opened": self.opened}))
        subprocess.run([sys.executable, str(HERE / "open_canaries.py"), str(self.folder)], check=True, timeout=280)
        outcomes: list[dict[str, Any]] = json.loads((self.folder / "outcomes.json").read_text())
        return outcomes


@pytest.fixture
def baits(tmp_path: Path) -> Baits:
    folder = tmp_path / "baits"
    folder.mkdir()
    return Baits(folder, tmp_path / "canary")


@pytest.fixture(scope="module")
def checkpoint(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real one, of a tiny run."""
    folder = tmp_path_factory.mktemp("trained")
    mapping = {
        "out": str(folder / "run"),
        "model": {"type": "gpt", "context": 16, "n_layer": 1, "n_head": 1, "n_embd": 8},
        "data": {"path": str(dataset)},
        "train": {"steps": 1, "batch_size": 2, "eval_windows": 4},
        "trackers": [],
    }
    (folder / "run.json").write_text(json.dumps(mapping))
    command = [sys.executable, "-m", "mypt_dist", "train", str(folder / "run.json")]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    return next((folder / "run/checkpoints").iterdir())


def resealed_dataset(content: dict[str, Any]) -> bytes:
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return json.dumps({**rest, "sha256": canonical_hash(rest)}).encode()


def reseal(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Hashes that fit, as someone who can write the folder makes them."""
    content = json.loads((folder / "manifest.json").read_text())
    for name in content["files"]:
        data = (folder / name).read_bytes()
        content["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    content = change(content)
    content["sha256"] = _self_hash(content)
    write(folder / "manifest.json", _spell(content))


def run_files(baits: Baits, run_mapping: dict[str, Any]) -> None:
    good = baits.folder / "run.json"
    good.write_text(json.dumps(run_mapping))
    good_yaml = baits.folder / "run.yaml"
    good_yaml.write_text(json.dumps(run_mapping))
    baits.warm += [("run file", str(good)), ("run file", str(good_yaml))]
    for name, payload in whole_files(baits.canary).items():
        baits.file("run file", f"json, {name}", payload, ".json")
        baits.file("run file", f"yaml, {name}", payload, ".yaml")
        parent = baits.place() / "parent.yaml"
        parent.write_bytes(payload)
        child = parent.with_name("child.json")
        child.write_text(json.dumps({**run_mapping, "extends": "parent.yaml"}))
        baits.add("run file", child, f"extended, {name}")
    for name, content in with_values(run_mapping, baits.canary):
        baits.file("run file", name, json.dumps(content).encode(), ".json")


def launch_files(baits: Baits) -> None:
    good_yaml, good_json = LAUNCH / "accelerate/fsdp2.yaml", LAUNCH / "deepspeed/zero3.json"
    baits.warm += [("launch file", str(good_yaml)), ("launch file", str(good_json))]
    for name, payload in whole_files(baits.canary).items():
        baits.file("launch file", f"yaml, {name}", payload, ".yaml")
        baits.file("launch file", f"deepspeed, {name}", payload, ".json")
    for name, content in with_values(json.loads(good_json.read_text()), baits.canary):
        baits.file("launch file", f"deepspeed, {name}", json.dumps(content).encode(), ".json")


def datasets(baits: Baits, good: Path) -> None:
    baits.warm += [("dataset", str(good)), ("dataset verified", str(good))]
    shard = "train/shard-00000.bin"
    manifest = json.loads((good / "dataset.json").read_text())
    for opener in ("dataset", "dataset verified"):
        for name, payload in whole_files(baits.canary).items():
            for file in ("dataset.json", shard):
                baits.copy(opener, good, f"{file}, {name}", lambda to, f=file, p=payload: write(to / f, p))
    for name, content in with_values(manifest, baits.canary):
        data = resealed_dataset(content)
        baits.copy("dataset", good, f"resealed, {name}", lambda to, data=data: write(to / "dataset.json", data))


def tokenizers(baits: Baits, checkpoint: Path) -> None:
    good = checkpoint / "tokenizer.json"
    baits.warm.append(("tokenizer", str(good)))
    for name, payload in whole_files(baits.canary).items():
        baits.file("tokenizer", name, payload, ".json")
    for name, content in with_values(json.loads(good.read_text()), baits.canary):
        baits.file("tokenizer", name, json.dumps(content).encode(), ".json")


CHECKPOINT_FILES = {
    "tokenizer.json": "checkpoint",
    "weights/rank-00000-of-00001.safetensors": "checkpoint",
    "engine.json": "resume",
    "rank-state/00000.json": "resume",
}
"""And who reads them."""


def checkpoints(baits: Baits, good: Path) -> None:
    baits.warm += [("checkpoint", str(good)), ("resume", str(good))]
    for name, payload in whole_files(baits.canary).items():
        for file in ("manifest.json", *CHECKPOINT_FILES):
            baits.copy("checkpoint", good, f"{file}, {name}", lambda to, f=file, p=payload: write(to / f, p))
        for file, opener in CHECKPOINT_FILES.items():
            baits.copy(opener, good, f"{file} resealed, {name}", lambda to, f=file, p=payload: write_sealed(to, f, p))


def checkpoint_values(baits: Baits, good: Path) -> None:
    for name, content in with_values(json.loads((good / "manifest.json").read_text()), baits.canary):
        if not name.startswith(("sha256", "files.", "tensors.")):
            for opener in ("checkpoint", "resume"):
                baits.copy(opener, good, f"resealed, {name}", lambda to, c=content: reseal(to, lambda _: dict(c)))
    for file in ("engine.json", "rank-state/00000.json"):
        for name, content in with_values(json.loads((good / file).read_text()), baits.canary):
            data = json.dumps(content).encode()
            baits.copy("resume", good, f"{file} resealed, {name}", lambda to, f=file, d=data: write_sealed(to, f, d))


def run_folders(baits: Baits) -> None:
    for opener, files in {
        "journal": ("metrics.jsonl", "events.jsonl"),
        "sender state": ("tracking/mlflow.json",),
        "run lock": ("run.lock",),
    }.items():
        good = baits.place()
        (good / "metrics.jsonl").write_text('{"step": 1, "time": 1, "train/loss": 1.0}\n')
        baits.warm.append((opener, str(good)))
        for file in files:
            for name, payload in whole_files(baits.canary).items():
                folder = baits.place()
                (folder / "tracking").mkdir()
                (folder / "metrics.jsonl").write_bytes(b"")
                write(folder / file, payload + b"\n")
                baits.add(opener, folder, f"{file}, {name}")


def texts(baits: Baits) -> None:
    good = baits.folder / "good.txt"
    good.write_text("some text")
    baits.warm.append(("text", str(good)))
    for suffix in (".txt", ".jsonl", ".jsonl.gz", ".txt.zst"):
        for name, payload in whole_files(baits.canary).items():
            baits.file("text", f"{suffix}, {name}", payload, suffix)


def corpora(baits: Baits) -> None:
    sources = {
        "sources": {"a": {"urls": [["a.zip", "https://example.org/a.zip"]], "format": {"type": "tsv", "column": 1}}}
    }
    lock = {"format": 1, "files": {"a/a.zip": {"url": "https://example.org/a.zip", "sha256": 64 * "0", "bytes": 1}}}
    for opener, content in {"sources file": sources, "lock file of sources": lock}.items():
        good = baits.place() / "good.json"
        good.write_text(json.dumps(content))
        baits.warm.append((opener, str(good)))
        for name, payload in whole_files(baits.canary).items():
            baits.file(opener, name, payload, ".json")
        for name, changed in with_values(content, baits.canary):
            baits.file(opener, name, json.dumps(changed).encode(), ".json")
    for suffix, pack in {".txt.gz": gzip.compress, ".txt.xz": lzma.compress}.items():
        good = baits.place() / f"good{suffix}"
        good.write_bytes(pack(b"text"))
        baits.warm.append(("archive", str(good)))
    for suffix in (".zip", ".tar", ".tar.gz", ".txt.gz", ".txt.bz2", ".txt.xz", ".txt.zst"):
        for name, payload in whole_files(baits.canary).items():
            baits.file("archive", f"{suffix}, {name}", payload, suffix)


def write(path: Path, data: bytes) -> None:
    # The copies are links: they must not be written through.
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def write_sealed(folder: Path, file: str, data: bytes) -> None:
    write(folder / file, data)
    reseal(folder, lambda manifest: manifest)


def test_nothing_that_is_read_executes(
    baits: Baits, run_mapping: dict[str, Any], dataset: Path, checkpoint: Path
) -> None:
    small = baits.folder / "data"
    shutil.copytree(dataset, small)
    run_files(baits, run_mapping)
    launch_files(baits)
    datasets(baits, small)
    tokenizers(baits, checkpoint)
    checkpoints(baits, checkpoint)
    checkpoint_values(baits, checkpoint)
    run_folders(baits)
    texts(baits)
    corpora(baits)
    outcomes = baits.outcomes()
    named = list(zip(baits.names, outcomes, strict=True))
    assert [(name, found["seen"]) for name, found in named if found["seen"]] == []
    assert not baits.canary.exists(), "a payload was executed"
    crashed = [(name, found["message"]) for name, found in named if found["result"] == "crashed"]
    assert crashed == [], f"{len(crashed)} of {len(named)} end in a traceback; first: {crashed[0][0]}\n{crashed[0][1]}"
    silent = [name for name, found in named if found["result"] == "refused" and not found["message"].strip()]
    assert silent == []
    results = Counter(found["result"] for found in outcomes)
    accepted = [name for name, found in named if found["result"] == "accepted"]
    assert not [name for name in accepted if ", pickle" in name and not name.startswith("text")], accepted
    count(
        "canary payloads in every accepted file type",
        "a clear error, or a value that is only text; nothing executes",
        opened=len(outcomes),
        refused=results["refused"],
        left_out=results["left out"],
        taken_as_text_or_number=results["accepted"],
        executed=0,
    )


def test_the_watch_sees_what_executes(baits: Baits) -> None:
    for name, payload in whole_files(baits.canary).items():
        if name.startswith("pickle "):
            baits.file("planted pickle", name, payload)
    outcomes = baits.outcomes()
    assert baits.canary.exists()
    assert len(outcomes) == 6
    for found in outcomes:
        assert any(event.startswith("os.system") for event in found["seen"]), found
        assert any(event.startswith("pickle.find_class") for event in found["seen"]), found
