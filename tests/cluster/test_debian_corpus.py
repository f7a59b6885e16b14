"""Debian's German and English manuals, from a server that fails in every way, become a model's daily bread."""

import gzip
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Mypt
from counted import count
from faulty_server import Behaviour, FaultyServer, Request, serving
from hostile_archives import zipped

from mypt_dist.data.sources import FetchOptions, fetch, read_sources
from mypt_dist.data.sources.pace import Pace
from mypt_dist.errors import DataError

pytestmark = pytest.mark.cluster

MANUALS = {
    "de": "/usr/share/debian-reference/debian-reference.de.txt.gz",
    "de-policy": "/usr/share/developers-reference/de/developers-reference.txt.gz",
    "en": "/usr/share/debian-reference/debian-reference.en.txt.gz",
    "en-policy": "/usr/share/developers-reference/developers-reference.txt.gz",
}
"""Of the packages that `.ci/packages` installs."""
PACE = Pace(connect_s=20, idle_s=2, slow_bytes=10_000, slow_s=0.5, attempts=2, progress_bytes=1000, wait_s=0.01)
WEIGHTS = {"de": 0.7, "en": 0.3}
STEPS, BATCH = 60, 4


def whole(content: bytes) -> Behaviour:
    return lambda request, _number: request.part(content, '"v1"')


def cut_in_six(content: bytes) -> Behaviour:
    return lambda request, _number: request.part(content, '"v1"', sent=len(content) // 6 + 1)


def changed_when_resumed(content: bytes) -> Behaviour:
    def answer(request: Request, number: int) -> None:
        if number:
            request.part(content, '"v2"')
        else:
            request.part(bytes(len(content)), '"v1"', sent=len(content) // 2)

    return answer


def wrong_length(content: bytes) -> Behaviour:
    return lambda request, _number: request.answer(content, length=len(content) + 500, ETag='"v1"')


def endless(content: bytes) -> Behaviour:
    def answer(request: Request, _number: int) -> None:
        request.head(200, Transfer_Encoding="chunked")
        request.drip(itertools.repeat(b"10000\r\n" + b"x" * 0x10000 + b"\r\n"), 0)

    return answer


def trickle(content: bytes) -> Behaviour:
    def answer(request: Request, _number: int) -> None:
        request.head(200, Content_Length=len(content), ETag='"v1"')
        request.drip(bytes([byte]) for byte in content)

    return answer


@pytest.fixture(scope="module")
def manuals() -> dict[str, bytes]:
    return {name: Path(path).read_bytes() for name, path in MANUALS.items()}


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serving() as running:
        yield running


def sources_file(folder: Path, server: FaultyServer) -> Path:
    lines = {"type": "lines", "lines_per_document": 50}
    german = {"urls": [["de.zip", server.url("/de")]], "final_pattern": "*.txt"}
    english = {"urls": [[f"{name}.txt.gz", server.url(f"/{name}")] for name in ("en", "en-policy")]}
    sources: dict[str, Any] = {"de": german, "en": english}
    for key, source in sources.items():
        source |= {"format": lines, "weight": WEIGHTS[key], "licence": "GPL-2 or later"}
    path = folder / "sources.json"
    path.write_text(json.dumps({"sources": sources}))
    return path


def test_two_languages_arrive_whole_or_not_at_all_and_are_trained_on_in_their_shares(
    manuals: dict[str, bytes], server: FaultyServer, run_mapping: dict[str, Any], tmp_path: Path, mypt: Mypt
) -> None:
    german = zipped([(f"{name}.txt", gzip.decompress(manuals[name])) for name in ("de", "de-policy")])
    file, web = sources_file(tmp_path, server), tmp_path / "web"
    options = FetchOptions(allow_hosts=[server.host], pace=PACE, max_bytes=4 << 20)

    refused = 0
    for fault in (wrong_length, endless, trickle):
        server.asked.clear()
        server.behaviours |= {
            "/de": cut_in_six(german),
            "/en": changed_when_resumed(manuals["en"]),
            "/en-policy": fault(manuals["en-policy"]),
        }
        with pytest.raises(DataError, match=r"en/en-policy\.txt\.gz"):
            fetch(read_sources(str(file)), web, options)
        arrived = sorted(path.name for path in (web / "en/download").iterdir() if ".part" not in path.name)
        assert arrived == ["en.txt.gz"]
        refused += 1
    server.behaviours["/en-policy"] = whole(manuals["en-policy"])
    fetch(read_sources(str(file)), web, options)
    pins = json.loads((tmp_path / "sources.lock.json").read_text())["files"]
    contents = {
        "de/de.zip": german,
        "en/en.txt.gz": manuals["en"],
        "en/en-policy.txt.gz": manuals["en-policy"],
    }
    assert {name: pin["sha256"] for name, pin in pins.items()} == {
        name: hashlib.sha256(content).hexdigest() for name, content in contents.items()
    }

    prepare = ["data", "prepare", file, "--out", tmp_path / "data", "--fetched", web]
    assert mypt(*prepare, "--tokenizer", "gpt2", "--val-fraction", "0.05")[0] == 0
    run = tmp_path / "run.json"
    model = {key: value for key, value in run_mapping["model"].items() if key != "vocab_size"}
    train = {**run_mapping["train"], "steps": STEPS, "batch_size": BATCH, "eval_every": STEPS, "save_every": STEPS}
    data = {"path": str(tmp_path / "data")}
    run.write_text(json.dumps({**run_mapping, "model": model, "data": data, "train": train}))
    assert mypt("train", run)[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    shares = {row["step"]: row["data/tokens/de"] / model["context"] for row in rows if "data/tokens/de" in row}
    assert len(shares) == STEPS
    farthest = max(abs(windows - WEIGHTS["de"] * step * BATCH) for step, windows in shares.items())
    assert farthest < 1
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses[-1] < losses[0]
    count(
        "German and English manuals from a server that cuts, changes, lies about lengths, never ends and trickles",
        "refused or whole, never half; trained on with weights 0.7 and 0.3, each prefix within one window of them",
        refused=refused,
        half_files=0,
        windows=STEPS * BATCH,
        farthest_from_its_share_in_windows=round(farthest, 2),
    )
