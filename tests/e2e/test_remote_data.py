"""Runs on a dataset in an object store: the local run bit by bit, or an end that says why and can be resumed."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Launch, Mypt
from object_store import ObjectStore

import mypt_dist
from mypt_dist.checkpoint import open_checkpoint
from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.errors import DataError

pytestmark = pytest.mark.e2e


@pytest.fixture
def remote(object_store: ObjectStore, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a copy of the dataset."""
    import s3fs

    # The client's own patience, beside ours.
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    bucket = object_store.bucket("corpora")
    object_store.system().put(str(dataset), bucket.removeprefix("s3://") + "/words", recursive=True)
    yield f"{bucket}/words"
    s3fs.S3FileSystem.clear_instance_cache()


def mapping(run_mapping: Mapping[str, Any], url: str, out: Path, **data: Any) -> dict[str, Any]:
    cache = {"path": str(out.parent / "cache")}
    return {**run_mapping, "out": str(out), "data": {"path": url, "cache": cache, **data}}


def written(file: Path, content: Mapping[str, Any]) -> str:
    file.write_text(json.dumps(content))
    return str(file)


def outcome(out: Path) -> tuple[str, dict[str, str]]:
    """What a run read, and what it computed from it."""
    with open_checkpoint(out) as found:
        assert found.manifest.step == 6
        return found.manifest.order_hash, {name: entry.sha256 for name, entry in found.manifest.files.items()}


def test_a_run_on_a_remote_dataset_is_the_local_one_on_any_number_of_ranks(
    remote: str,
    object_store: ObjectStore,
    dataset: Path,
    run_mapping: dict[str, Any],
    tmp_path: Path,
    forked: Launch,
) -> None:
    mypt_dist.train(run_mapping)
    local = outcome(tmp_path / "run")

    one = mapping(run_mapping, remote, tmp_path / "one")
    mypt_dist.train({**one, "train": {**one["train"], "stop_after": 3}})
    mypt_dist.train(one)
    assert outcome(tmp_path / "one") == local
    rows = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    fetched = [row["data/fetched_mb"] for row in rows if "data/fetched_mb" in row]
    assert fetched[0] > 0
    assert fetched[-1] == 0, "the second start found all in the cache"

    two = mapping(run_mapping, remote, tmp_path / "two", cache={"path": str(tmp_path / "shared")})
    files = [entry.file for entry in DatasetManifest.read(dataset).files()]
    before = {file: object_store.requests("GET", file) for file in files}
    forked(2, "-m", "mypt_dist", "train", written(tmp_path / "two.json", two), **object_store.environment)
    assert outcome(tmp_path / "two")[0] == local[0]
    asked = [object_store.requests("GET", file) - before[file] for file in files]
    assert (max(asked), sum(asked) > 2) == (1, True), "each shard once for both ranks"


def test_a_shard_that_is_lost_while_a_run_trains_ends_it_and_the_next_start_goes_on(
    remote: str, object_store: ObjectStore, dataset: Path, run_mapping: dict[str, Any], tmp_path: Path
) -> None:
    mypt_dist.train(run_mapping)
    store, lost = object_store.system(), "val/shard-00000.bin"
    store.rm(f"{remote}/{lost}")
    broken = mapping(run_mapping, remote, tmp_path / "broken")
    with pytest.raises(DataError, match=f"{remote}/{lost} is not there"):
        mypt_dist.train(broken)
    store.put(str(dataset / lost), f"{remote}/{lost}")
    mypt_dist.train(broken)
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "run")


def test_what_the_command_line_says_of_remote_datasets(
    remote: str,
    object_store: ObjectStore,
    dataset: Path,
    run_mapping: dict[str, Any],
    tmp_path: Path,
    mypt: Mypt,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert mypt("data", "verify", remote) == (0, f"{remote}: every byte is as it was written\n", "")
    assert mypt("data", "inspect", remote)[1] == mypt("data", "inspect", dataset)[1].replace(str(dataset), remote)
    assert mypt("data", "stats", remote)[1] == mypt("data", "stats", dataset)[1]

    small = mapping(run_mapping, remote, tmp_path / "small", cache={"path": str(tmp_path / "cache"), "max_gib": 1e-5})
    run_file = written(tmp_path / "small.json", small)
    code, _, said = mypt("train", run_file)
    assert (code, "data.cache.max_gib: the cache" in said) == (2, True), said
    assert not (tmp_path / "small").exists()

    store, name = object_store.system(), "train/shard-00000.bin"
    content = (dataset / name).read_bytes()
    store.pipe(f"{remote}/{name}", content[:-1] + bytes([content[-1] ^ 1]))
    store.pipe(f"{remote}/stray", b"")
    code, _, said = mypt("data", "verify", remote)
    assert code == 3
    assert f"{remote}/{name} has sha256" in said
    assert f"{remote}/stray does not belong to the dataset" in said

    object_store.close()
    code, _, said = mypt("train", run_file, "data.cache.max_gib=1")
    assert (code, f"{remote}/dataset.json cannot be read" in said) == (3, True), said
    assert not (tmp_path / "small").exists()
