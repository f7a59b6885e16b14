"""Every change of a checkpoint's bytes is found before a tensor is used, and an older one is used instead."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_doubles import (
    QuickFiles,
    on_ranks,
    quick_disk,
    random_state,
    read_whole,
    run_ranks,
    same,
    save_alone,
    save_dealt,
)

from mypt_dist.checkpoint import CheckpointStore, CorruptError, open_checkpoint, verify_checkpoint
from mypt_dist.errors import CheckpointError
from mypt_dist.world import Solo, World


def latest(root: Path) -> Any:
    return CheckpointStore(root, Solo(), disk=quick_disk()).latest()


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def cut(folder: Path, path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(folder: Path, path: Path) -> None:
    os.truncate(path, 0)


def lengthen(folder: Path, path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def zero_a_page(folder: Path, path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(min(4096, path.stat().st_size)))


def remove(folder: Path, path: Path) -> None:
    path.unlink()


def add_another(folder: Path, path: Path) -> None:
    shutil.copy(path, path.with_name(f"{path.name}.bak"))


def replace_by_a_folder(folder: Path, path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_a_link(folder: Path, path: Path) -> None:
    """To the very same bytes: they could change under another name."""
    elsewhere = folder.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def replace_by_a_pipe(folder: Path, path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def take_from_another_step(folder: Path, path: Path) -> None:
    other = save_alone(folder.parent.parent / "other", 8, random_state(8))
    shutil.copy(other / path.relative_to(folder), path)


DAMAGES = [
    cut,
    empty,
    lengthen,
    zero_a_page,
    remove,
    add_another,
    replace_by_a_folder,
    replace_by_a_link,
    replace_by_a_pipe,
    take_from_another_step,
]
FILES = ["manifest.json", "weights/rank-00000-of-00001.safetensors", "rank-state/00000.json", "tokenizer.json"]


@pytest.mark.parametrize(
    ("damage", "name"),
    # The tokenizer of another step is the same.
    [(damage, name) for damage in DAMAGES for name in FILES if (damage, name) != (take_from_another_step, FILES[-1])],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_older_one_used(
    tmp_path: Path, damage: Callable[[Path, Path], None], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "run"
    save_alone(root, 6)
    folder = save_alone(root, 7)
    damage(folder, folder / name)
    found = latest(root)
    assert found.manifest.step == 6
    assert same(read_whole(found), random_state(6))
    assert (root / "step-00000007.corrupt").exists()
    assert not folder.exists()
    assert "is now called step-00000007.corrupt" in caplog.text
    assert name in caplog.text


def test_files_of_two_ranks_that_were_swapped_are_found(tmp_path: Path) -> None:
    state = {"model/a": np.arange(8, dtype=np.float32)}
    on_ranks(2, lambda world: save_dealt(CheckpointStore(tmp_path, world, disk=quick_disk()), world, 1, state))
    weights = tmp_path / "step-00000001" / "weights"
    first, second = sorted(weights.iterdir())
    first.rename(weights / "x")
    second.rename(first)
    (weights / "x").rename(second)
    assert len(verify_checkpoint(tmp_path / "step-00000001")) == 2


def test_all_problems_of_a_checkpoint_are_told_at_once(tmp_path: Path) -> None:
    folder = save_alone(tmp_path, 1)
    (folder / "tokenizer.json").unlink()
    cut(folder, folder / "rank-state" / "00000.json")
    (folder / "notes.txt").write_text("")
    assert verify_checkpoint(folder) == [
        "rank-state/00000.json has 25 bytes instead of 26",
        "tokenizer.json is missing",
        "notes.txt does not belong to it",
    ]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_damage_found_by_any_rank_makes_all_ranks_use_the_same_older_one(tmp_path: Path, size: int) -> None:
    for step in (1, 2, 3):
        save_alone(tmp_path, step)
    for path in files_of(tmp_path / "step-00000003")[1:]:
        zero_a_page(path.parent, path)
    zero_a_page(tmp_path, tmp_path / "step-00000002" / "tokenizer.json")

    def run(world: World) -> Any:
        return CheckpointStore(tmp_path, world, disk=quick_disk()).latest()

    assert {found.manifest.step for found in on_ranks(size, run)} == {1}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-00000001",
        "step-00000002.corrupt",
        "step-00000003.corrupt",
    ]


def test_when_all_are_corrupt_there_is_no_silent_fresh_start(tmp_path: Path) -> None:
    folder = save_alone(tmp_path, 1)
    remove(folder, folder / "manifest.json")
    for _ in range(2):
        outcomes = run_ranks(2, lambda world: CheckpointStore(tmp_path, world, disk=quick_disk()).latest())
        for outcome in outcomes:
            assert isinstance(outcome, CheckpointError)
            assert r"all of them are corrupt (step-00000001.corrupt): delete them" in str(outcome)


def test_a_step_that_gets_corrupt_twice_keeps_both(tmp_path: Path) -> None:
    save_alone(tmp_path, 1)
    for _ in range(2):
        folder = save_alone(tmp_path, 2)
        remove(folder, folder / "manifest.json")
        assert latest(tmp_path).manifest.step == 1
    assert len([p for p in tmp_path.iterdir() if ".corrupt" in p.name]) == 2


class Unreadable(QuickFiles):
    """Says of some file, a number of times, that it can not be read."""

    def __init__(self, call: str, name: str, error: int, times: int) -> None:
        self.call, self.name, self.error, self.left = call, name, error, times

    def _maybe(self, call: str, path: Path) -> None:
        if (call, path.name) == (self.call, self.name) and self.left:
            self.left -= 1
            raise OSError(self.error, os.strerror(self.error))

    def open(self, path: Path) -> int:
        self._maybe("open", path)
        return super().open(path)

    def map(self, path: Path) -> Any:
        self._maybe("map", path)
        return super().map(path)

    def status(self, path: Path) -> os.stat_result:
        self._maybe("status", path)
        return super().status(path)

    def names(self, path: Path) -> list[str]:
        self._maybe("names", path)
        return super().names(path)


ERRNOS = [5, 12, 13, 24, 116]
PLACES = [
    ("open", "manifest.json"),
    ("map", "rank-00000-of-00001.safetensors"),
    ("status", "tokenizer.json"),
    ("names", "weights"),
    ("names", "root"),
]


@pytest.mark.parametrize("error", ERRNOS)
@pytest.mark.parametrize(("call", "name"), PLACES)
def test_what_can_not_be_read_just_now_is_neither_used_nor_called_corrupt(
    tmp_path: Path, call: str, name: str, error: int
) -> None:
    root = tmp_path / "root"
    for step in (1, 2):
        save_alone(root, step)
    disk = quick_disk(Unreadable(call, name, error, 1 << 30))
    with pytest.raises(CheckpointError, match="can not be read right now, it may be intact") as caught:
        CheckpointStore(root, Solo(), disk=disk).latest()
    assert not isinstance(caught.value, CorruptError)
    assert sorted(path.name for path in root.iterdir()) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize(("call", "name"), PLACES)
def test_what_can_be_read_at_the_second_try_is_used(tmp_path: Path, call: str, name: str) -> None:
    root = tmp_path / "root"
    for step in (1, 2):
        save_alone(root, step)
    disk = quick_disk(Unreadable(call, name, 5, 2))
    found = CheckpointStore(root, Solo(), disk=disk).latest()
    assert found is not None
    assert found.manifest.step == 2


def test_a_rank_that_sees_another_checkpoint_than_rank_0_stops_all(tmp_path: Path) -> None:
    for name in ("shared", "local"):
        save_alone(tmp_path / name, 1, random_state(len(name)))

    def run(world: World) -> Any:
        return CheckpointStore(tmp_path / ("local" if world.rank else "shared"), world, disk=quick_disk()).latest()

    for outcome in run_ranks(2, run):
        assert isinstance(outcome, CheckpointError)
        assert "is another checkpoint here than on rank 0: is this folder shared?" in str(outcome)
    assert (tmp_path / "shared" / "step-00000001").exists()


def test_a_page_that_can_not_be_brought_in_is_an_error_not_a_signal(tmp_path: Path) -> None:
    class Rotten(QuickFiles):
        def page_in(self, mapped: Any, start: int, length: int) -> None:
            raise OSError(14, "Bad address")

    folder = save_alone(tmp_path, 1)
    with pytest.raises(CheckpointError, match="can not be read right now"):
        open_checkpoint(folder, quick_disk(Rotten()))


def test_a_file_cut_while_it_is_mapped_is_an_error_not_a_signal(tmp_path: Path) -> None:
    class Cutting(QuickFiles):
        def map(self, path: Path) -> Any:
            mapped = super().map(path)
            os.truncate(path, 0)
            return mapped

    folder = save_alone(tmp_path, 1, {"model/a": np.zeros(5000, dtype=np.float32)})
    with pytest.raises(CheckpointError):
        open_checkpoint(folder, quick_disk(Cutting()))


def test_where_pages_can_not_be_asked_for_files_are_read_and_every_change_still_found(tmp_path: Path) -> None:
    class Old(QuickFiles):
        def page_in(self, mapped: Any, start: int, length: int) -> None:
            raise OSError(22, "Invalid argument")

    folder = save_alone(tmp_path, 1)
    disk = quick_disk(Old())
    assert same(read_whole(open_checkpoint(folder, disk)), random_state(1))
    zero_a_page(folder, folder / "tokenizer.json")
    assert verify_checkpoint(folder, disk) == ["tokenizer.json has changed"]


def test_a_file_that_shrinks_after_it_was_verified_is_noticed(tmp_path: Path) -> None:
    folder = save_alone(tmp_path, 1)
    found = open_checkpoint(folder, quick_disk())
    found.close()
    empty(folder, folder / "weights" / "rank-00000-of-00001.safetensors")
    with pytest.raises(CheckpointError, match="another size than when it was verified"):
        read_whole(found)


def test_a_manifest_of_absurd_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_alone(tmp_path, 1)
    monkeypatch.setattr("mypt_dist.checkpoint.verify.MAX_BYTES", 1000)
    assert verify_checkpoint(folder) == ["manifest.json is not a manifest: it has more than 1,000 bytes"]


def test_an_empty_file_is_verified_too(tmp_path: Path) -> None:
    from checkpoint_doubles import describer

    store = CheckpointStore(tmp_path, Solo(), disk=quick_disk())
    folder = store.save(1, [], rank_state={}, files={"empty.txt": b""}, describe=describer(1))
    assert verify_checkpoint(folder) == []
    lengthen(folder, folder / "empty.txt")
    assert verify_checkpoint(folder) == ["empty.txt has 1 bytes instead of 0"]


def test_more_files_than_may_be_mapped_at_once_are_all_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mypt_dist.checkpoint.mapped.KEPT", 2)
    folder = save_alone(tmp_path, 1, disk=quick_disk(part_bytes=1))
    found = open_checkpoint(folder, quick_disk())
    assert len(found.manifest.files) > 5
    assert same(read_whole(found), random_state(1))
    assert len(found._maps._kept) == 2


def authentic_but(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest as somebody who knows the format would."""
    import json

    from mypt_dist.checkpoint.manifest import _self_hash, _spell

    mapping = json.loads((folder / "manifest.json").read_text())
    change(mapping)
    (folder / "manifest.json").write_bytes(_spell({**mapping, "sha256": _self_hash(mapping)}))


def test_a_newer_format_stops_all_and_is_left_where_it_is(tmp_path: Path) -> None:
    save_alone(tmp_path, 1)
    authentic_but(save_alone(tmp_path, 2), lambda mapping: mapping.update(format=2))
    for outcome in run_ranks(2, lambda world: CheckpointStore(tmp_path, world, disk=quick_disk()).latest()):
        assert isinstance(outcome, CheckpointError)
        assert "upgrade" in str(outcome)
    assert (tmp_path / "step-00000002").exists()


def test_a_manifest_that_names_a_wrong_array_can_not_make_us_read_it(tmp_path: Path) -> None:
    folder = save_alone(tmp_path, 1)

    def wrong_key(mapping: dict[str, Any]) -> None:
        mapping["tensors"]["model/token.weight"]["segments"][0]["key"] = "model/norm.weight"

    def wrong_file(mapping: dict[str, Any]) -> None:
        mapping["tensors"]["model/token.weight"]["segments"][0]["file"] = "tokenizer.json"

    authentic_but(folder, wrong_key)
    with pytest.raises(CheckpointError, match=r"does not hold model/norm\.weight as the manifest says"):
        read_whole(open_checkpoint(folder))
    authentic_but(folder, wrong_file)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json can not be read: its header"):
        read_whole(open_checkpoint(folder))


def test_how_many_steps_are_lost_is_told_and_can_be_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (10, 20, 35):
        save_alone(tmp_path, step)
    for step in (20, 35):
        (tmp_path / f"step-000000{step}" / "tokenizer.json").unlink()
    found = latest(tmp_path)
    assert (found.manifest.step, found.passed_over) == (10, (35, 20))
    assert "going on from step 10: 25 steps will be done again" in caplog.text


@pytest.mark.parametrize("size", [1, 2])
def test_where_a_corrupt_one_must_stop_the_run_nothing_is_changed(tmp_path: Path, size: int) -> None:
    for step in (1, 2):
        save_alone(tmp_path, step)
    (tmp_path / "step-00000002" / "tokenizer.json").unlink()
    disk = quick_disk()
    outcomes = run_ranks(size, lambda world: CheckpointStore(tmp_path, world, disk=disk).latest(on_corrupt="stop"))
    for outcome in outcomes:
        assert isinstance(outcome, CheckpointError)
        assert "tokenizer.json is missing. Nothing was changed: checkpoints.on_corrupt is stop" in str(outcome)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]
