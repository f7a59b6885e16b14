"""Bytes change after they were saved: every change is found before a tensor is used."""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from checkpoint_doubles import on_ranks, quick_disk, random_state, save_alone, save_dealt
from counted import SOAK, count

from mypt_dist.checkpoint import CheckpointStore, CorruptError, open_checkpoint, verify, verify_checkpoint
from mypt_dist.world import World

EXPECTED = "found before a tensor is used, by the name of the file"
TINY = {"model/a": np.arange(3, dtype=np.float32), "optimizer/step/a": np.array(1)}
PAGE = 4096
FLIPS = 10_000 if SOAK else 2_000


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_alone(tmp_path_factory.mktemp("tiny"), 1, TINY)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some megabytes written by two ranks."""
    rng = np.random.default_rng(0)
    state = {name: rng.random((500, 400), dtype=np.float32) for name in ("model/w", "optimizer/m/w", "optimizer/v/w")}
    root = tmp_path_factory.mktemp("large")

    def run(world: World) -> Path:
        return save_dealt(CheckpointStore(root, world, disk=quick_disk()), world, 1, state)

    return on_ranks(2, run)[0]


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def is_refused(folder: Path, path: Path) -> bool:
    """Whether opening says which file is wrong."""
    try:
        open_checkpoint(folder, quick_disk()).close()
    except CorruptError as error:
        return path.relative_to(folder).as_posix() in str(error)
    return False


@contextmanager
def instead(path: Path, content: bytes) -> Iterator[None]:
    """The file with other content, for a while."""
    before = path.read_bytes()
    path.write_bytes(content)
    yield
    path.write_bytes(before)


def test_every_flipped_bit_of_every_file_is_found(tiny: Path) -> None:
    tried, missed = 0, []
    for path in files_of(tiny):
        content = path.read_bytes()
        with path.open("r+b", buffering=0) as file:
            for at, bit in product(range(len(content)), range(8)):
                os.pwrite(file.fileno(), bytes([content[at] ^ (1 << bit)]), at)
                if not is_refused(tiny, path):
                    missed.append(f"{path.name} bit {bit} of byte {at}")
                os.pwrite(file.fileno(), content[at : at + 1], at)
                tried += 1
    count("every bit flipped of every file of a small checkpoint", EXPECTED, points=tried, missed=0)
    assert missed == []
    assert tried > 12_000
    assert verify_checkpoint(tiny) == []


def test_a_flipped_bit_anywhere_in_a_large_one_is_found(large: Path) -> None:
    dice = random.Random(0)
    paths = files_of(large)
    weights = [path.stat().st_size for path in paths]
    missed = []
    for path in dice.choices(paths, weights, k=FLIPS):
        at, bit = dice.randrange(path.stat().st_size), dice.randrange(8)
        with path.open("r+b", buffering=0) as file:
            (byte,) = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([byte ^ (1 << bit)]), at)
            if not is_refused(large, path):
                missed.append(f"{path.name} bit {bit} of byte {at}")
            os.pwrite(file.fileno(), bytes([byte]), at)
    count("one bit flipped anywhere in a checkpoint of 2.4 MB", EXPECTED, points=FLIPS, missed=len(missed))
    assert missed == []


def test_every_length_that_a_file_is_cut_to_is_found(tiny: Path) -> None:
    tried = 0
    for path in files_of(tiny):
        content = path.read_bytes()
        for length in range(len(content)):
            with instead(path, content[:length]):
                assert is_refused(tiny, path), f"{path.name} cut to {length}"
            tried += 1
    count("a file cut to every shorter length", EXPECTED, points=tried, missed=0)


def test_every_page_that_reads_as_zeros_is_found(large: Path) -> None:
    tried = 0
    for path in files_of(large):
        content = path.read_bytes()
        with path.open("r+b", buffering=0) as file:
            for at in range(0, len(content), PAGE if SOAK else 4 * PAGE):
                lost = content[at : at + PAGE]
                os.pwrite(file.fileno(), bytes(len(lost)), at)
                assert is_refused(large, path), f"{path.name} page at {at}"
                os.pwrite(file.fileno(), lost, at)
                tried += 1
    count("a page of 4 KiB that reads as zeros", EXPECTED, points=tried, missed=0)


def test_files_that_were_swapped_replaced_removed_or_added_are_found(large: Path, tmp_path: Path) -> None:
    (other, _) = on_ranks(
        2, lambda world: save_dealt(CheckpointStore(tmp_path, world, disk=quick_disk()), world, 8, random_state(8))
    )
    strangers = {path.relative_to(other): path for path in files_of(other)}
    tried = 0
    for one, two in combinations(files_of(large), 2):
        if one.read_bytes() != two.read_bytes():
            with instead(one, two.read_bytes()), instead(two, one.read_bytes()):
                assert is_refused(large, one), f"{one.name} and {two.name}"
            tried += 1
    for path in files_of(large):
        content = path.read_bytes()
        replaced = strangers[path.relative_to(large)].read_bytes()
        # The tokenizer of another step is the same.
        if replaced != content:
            with instead(path, replaced):
                assert is_refused(large, path)
            tried += 1
        path.unlink()
        assert is_refused(large, path)
        path.write_bytes(content)
        extra = path.with_name(f"{path.name}.bak")
        shutil.copy(path, extra)
        assert is_refused(large, extra)
        extra.unlink()
        tried += 2
    count("files swapped, taken from another step, missing or added", EXPECTED, points=tried, missed=0)
    assert verify_checkpoint(large) == []


def test_without_hashing_a_flipped_bit_is_not_found(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mypt_dist.checkpoint.catalog.check_content", lambda *arguments: None)
    path = tiny / "weights" / "rank-00000-of-00001.safetensors"
    content = path.read_bytes()
    with instead(path, content[:-1] + bytes([content[-1] ^ 1])):
        assert not is_refused(tiny, path)


def test_without_the_manifests_own_hash_a_flipped_bit_in_it_is_not_found(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    monkeypatch.setattr("mypt_dist.checkpoint.manifest._authentic", lambda content, where: json.loads(content))
    path = tiny / "manifest.json"
    with instead(path, path.read_bytes().replace(b'"seed": 1', b'"seed": 3')):
        assert not is_refused(tiny, path)


def test_without_the_exact_set_of_files_one_that_was_added_is_not_found(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = verify._sizes

    def listed_only(disk: object, folder: Path) -> dict[str, int | None]:
        return {name: size for name, size in sizes(quick_disk(), folder).items() if not name.endswith(".bak")}

    monkeypatch.setattr("mypt_dist.checkpoint.verify._sizes", listed_only)
    extra = tiny / "weights" / "more.bak"
    extra.write_bytes(b"")
    assert not is_refused(tiny, extra)
    extra.unlink()
