"""Saving together and finding the newest valid checkpoint, on one rank and on several."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_doubles import (
    FaultyFiles,
    QuickFiles,
    describer,
    on_ranks,
    quick_disk,
    random_state,
    read_whole,
    same,
    save_alone,
    save_dealt,
)
from safetensors.numpy import load_file

from mypt_dist.checkpoint import CheckpointStore, Disk, Manifest, Retention, open_checkpoint
from mypt_dist.errors import CheckpointError
from mypt_dist.world import Solo, World

NEVER = 1 << 30


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_all_ranks_get_back_what_all_ranks_saved(tmp_path: Path, size: int) -> None:
    state = random_state()

    def run(world: World) -> Any:
        store = CheckpointStore(tmp_path / "new" / "checkpoints", world, disk=quick_disk(part_bytes=64))
        folder = save_dealt(store, world, 12, state, loss=1.5)
        found = store.latest()
        assert found is not None
        assert found.folder == folder
        assert found.rank_state(world.rank) == {"rank": world.rank, "step": 12}
        assert found.read_json("tokenizer.json") == {"kind": "byte"}
        return found.manifest, read_whole(found)

    results = on_ranks(size, run)
    assert all(manifest == results[0][0] and same(loaded, state) for manifest, loaded in results)
    manifest = results[0][0]
    assert (manifest.step, manifest.tokens, manifest.world_size, manifest.metrics) == (12, 1200, size, {"loss": 1.5})
    written = [name for name in manifest.files if name.startswith("weights/")]
    assert {f"weights/rank-{rank:05d}-of-{size:05d}.safetensors" for rank in range(size)} <= set(written)


def test_every_tensor_file_is_a_safetensors_file(tmp_path: Path) -> None:
    state = random_state(1)
    folder = save_alone(tmp_path, 1, state)
    stored = load_file(folder / "optimizer" / "rank-00000-of-00001.safetensors")
    assert np.array_equal(stored["optimizer/exp_avg/token.weight"], state["optimizer/exp_avg/token.weight"].reshape(-1))
    assert stored["optimizer/step/token.weight"] == [4]


def test_a_fresh_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "missing", Solo()).latest() is None
    assert not (tmp_path / "missing").exists()
    (tmp_path / "notes").mkdir()
    assert on_ranks(2, lambda world: CheckpointStore(tmp_path, world).latest()) == [None, None]


def test_the_newest_is_found_by_its_number_not_by_its_age(tmp_path: Path) -> None:
    for step in (100, 20, 3):
        save_alone(tmp_path, step)
    os.utime(tmp_path / "step-00000003", (2e9, 2e9))
    found = CheckpointStore(tmp_path, Solo(), disk=quick_disk()).latest()
    assert found is not None
    assert found.manifest.step == 100


def test_a_range_is_read_from_only_the_pieces_that_overlap_it(tmp_path: Path) -> None:
    class Watching(QuickFiles):
        def __init__(self) -> None:
            self.mapped: list[str] = []

        def map(self, path: Path) -> Any:
            self.mapped.append(path.name)
            return super().map(path)

    array = np.arange(60, dtype=np.int32).reshape(12, 5)

    def save(world: World) -> None:
        save_dealt(CheckpointStore(tmp_path, world, disk=quick_disk()), world, 1, {"model/a": array})

    on_ranks(4, save)
    files = Watching()
    found = CheckpointStore(tmp_path, Solo(), disk=quick_disk(files)).latest()
    assert found is not None
    found.close()
    files.mapped.clear()
    out = np.zeros(20, dtype=np.int32)
    found.read_into("model/a", 20, 20, out)
    assert out.tolist() == list(range(20, 40))
    assert files.mapped == ["rank-00001-of-00004.safetensors", "rank-00002-of-00004.safetensors"]


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 105), (104, 1), (0, -1)])
def test_a_range_outside_the_tensor_is_refused(tmp_path: Path, start: int, length: int) -> None:
    found = CheckpointStore(save_alone(tmp_path, 1).parent, Solo(), disk=quick_disk()).latest()
    assert found is not None
    with pytest.raises(CheckpointError, match="has 104 elements"):
        found.read_into("model/token.weight", start, length, bytearray(max(0, length * 4)))


def test_what_the_checkpoint_does_not_have_is_refused_by_name(tmp_path: Path) -> None:
    found = CheckpointStore(save_alone(tmp_path, 1).parent, Solo(), disk=quick_disk()).latest()
    assert found is not None
    with pytest.raises(CheckpointError, match="no tensor 'model/other': it is of another model"):
        found.read_into("model/other", 0, 1, bytearray(4))
    with pytest.raises(ValueError, match="104 F32 need 416 bytes, not 415"):
        found.read_into("model/token.weight", 0, 104, bytearray(415))
    with pytest.raises(CheckpointError, match=r"no file rank-state/00001\.json"):
        found.rank_state(1)
    with pytest.raises(CheckpointError, match="can't decode"):
        found.read_json("weights/rank-00000-of-00001.safetensors")


def test_rank_state_must_be_an_object(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, Solo(), disk=quick_disk())
    store.save(1, [], rank_state=[1], files={}, describe=describer(1))  # type: ignore[arg-type]
    found = store.latest()
    assert found is not None
    with pytest.raises(CheckpointError, match="must hold an object"):
        found.rank_state(0)


def test_saving_a_step_again_replaces_it_and_leaves_nothing_behind(tmp_path: Path) -> None:
    save_alone(tmp_path, 5, random_state(1))
    save_alone(tmp_path, 5, random_state(2))
    found = CheckpointStore(tmp_path, Solo(), disk=quick_disk()).latest()
    assert found is not None
    assert same(read_whole(found), random_state(2))
    assert names(tmp_path) == ["step-00000005"]


def test_a_write_may_take_several_calls(tmp_path: Path) -> None:
    class Slow(QuickFiles):
        def write(self, descriptor: int, data: memoryview) -> int:
            return super().write(descriptor, data[:7])

    save_alone(tmp_path, 1, disk=quick_disk(Slow()))
    found = CheckpointStore(tmp_path, Solo(), disk=quick_disk()).latest()
    assert found is not None
    assert same(read_whole(found), random_state(1))


def test_old_checkpoints_are_deleted_only_after_the_new_one_is_safe(tmp_path: Path) -> None:
    order: list[str] = []

    class Ordered(QuickFiles):
        def rename(self, old: Path, new: Path) -> None:
            order.append(new.name.partition(".partial")[0][:13])
            super().rename(old, new)

        def unlink(self, path: Path) -> None:
            order.append(path.name)
            super().unlink(path)

        def sync_folder(self, path: Path) -> None:
            order.append(f"sync {path.name}")

    for step in (1, 2):
        save_alone(tmp_path, step)
    root = tmp_path.rename(tmp_path.parent / "root")
    store = CheckpointStore(root, Solo(), Retention(keep_last=2, keep_best=None), disk=quick_disk(Ordered()))
    save_dealt(store, Solo(), 3, {})
    assert order[order.index("step-00000003") :][:5] == [
        "step-00000003",
        "sync root",
        ".trash-step-0",
        "sync root",
        "manifest.json",
    ]
    assert names(root) == ["step-00000002", "step-00000003"]


def test_a_deletion_that_fails_does_not_fail_the_save(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn(QuickFiles):
        def rename(self, old: Path, new: Path) -> None:
            if new.name.startswith(".trash"):
                raise OSError(5, "Input/output error")
            super().rename(old, new)

    for step in (1, 2):
        save_alone(tmp_path, step)
    store = CheckpointStore(tmp_path, Solo(), Retention(keep_last=2), disk=quick_disk(Stubborn()))
    save_dealt(store, Solo(), 3, {})
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]
    assert "were not all deleted" in caplog.text


def test_a_corrupt_checkpoint_does_not_count_among_the_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_alone(tmp_path, step)
    (tmp_path / "step-00000003" / "tokenizer.json").unlink()
    store = CheckpointStore(tmp_path, Solo(), Retention(keep_last=2), disk=quick_disk())
    save_dealt(store, Solo(), 4, {})
    assert names(tmp_path) == ["step-00000002", "step-00000003", "step-00000004"]


def test_every_file_is_written_once_and_its_hash_is_the_content(tmp_path: Path) -> None:
    import hashlib

    folder = save_alone(tmp_path, 1)
    manifest = Manifest.model_validate(json.loads((folder / "manifest.json").read_text()))
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {"manifest.json"}
    assert on_disk == manifest.files.keys()
    for name, entry in manifest.files.items():
        content = (folder / name).read_bytes()
        assert (entry.bytes, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_on_the_real_disk_a_checkpoint_is_saved_replaced_and_found(tmp_path: Path) -> None:
    disk = Disk(part_bytes=64)
    for seed in (1, 2):
        save_alone(tmp_path, 5, random_state(seed), disk=disk)
    found = CheckpointStore(tmp_path, Solo(), disk=disk).latest()
    assert found is not None
    assert same(read_whole(found), random_state(2))


@pytest.mark.parametrize("threads", [1, 3])
def test_a_large_tensor_is_copied_by_all_threads_and_lands_where_it_should(tmp_path: Path, threads: int) -> None:
    array = np.random.default_rng(0).integers(0, 256, 9_000_001).astype(np.uint8)
    disk = Disk(files=QuickFiles(), threads=threads)
    folder = save_alone(tmp_path, 1, {"model/a": array}, disk)
    out = np.zeros(9_000_001, dtype=np.uint8)
    with open_checkpoint(folder, disk) as found:
        found.read_into("model/a", 7, 8_999_990, out[3:8_999_993].data)
    assert np.array_equal(out[3:8_999_993], array[7:8_999_997])
    assert out[:3].tolist() + out[8_999_993:].tolist() == [0] * 11


def test_threads_write_and_verify_several_files_at_once(tmp_path: Path) -> None:
    disk = Disk(files=QuickFiles(), threads=4, part_bytes=32)
    save_alone(tmp_path, 1, disk=disk)
    with caught_store(tmp_path, disk) as found:
        assert same(read_whole(found), random_state(1))


def caught_store(root: Path, disk: Any) -> Any:
    found = CheckpointStore(root, Solo(), disk=disk).latest()
    assert found is not None
    return found


def test_calls_are_counted_by_the_double_that_makes_them_fail() -> None:
    files = FaultyFiles(NEVER, OSError())
    files.names(Path())
    assert files.calls == ["names"]


def test_a_folder_that_shows_late_on_a_network_disk_is_waited_for(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.WARNING)

    class Late(QuickFiles):
        def __init__(self) -> None:
            self.left = 3

        def status(self, path: Path) -> os.stat_result:
            if path.name == "rank-state" and self.left:
                self.left -= 1
                raise FileNotFoundError(path)
            return super().status(path)

    save_alone(tmp_path, 1, disk=quick_disk(Late()))
    assert names(tmp_path) == ["step-00000001"]
