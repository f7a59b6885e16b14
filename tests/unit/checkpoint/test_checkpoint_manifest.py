"""The one spelling of a manifest: every change is found, and what is of another version is not called corrupt."""

import hashlib
import json
from typing import Any

import pytest
from checkpoint_doubles import describer
from hypothesis import given
from hypothesis import strategies as st

from mypt_dist.checkpoint import CorruptError, FileEntry, Manifest, SegmentEntry, TensorEntry
from mypt_dist.checkpoint.manifest import _self_hash, _spell, parse_manifest
from mypt_dist.errors import CheckpointError

FILE = "weights/rank-00000-of-00001.safetensors"
TENSOR = TensorEntry(shape=(2, 2), dtype="F32", segments=(SegmentEntry(file=FILE, key="model/a", start=0, length=4),))


def manifest(**changes: Any) -> Manifest:
    made = describer(7, {"val/loss": 2.5})({FILE: FileEntry(bytes=9, sha256="a" * 64)}, {"model/a": TENSOR})
    return made.model_copy(update=changes).sealed()


def resealed(mapping: dict[str, Any]) -> bytes:
    """As somebody who knows the format would write it: hash and spelling are right."""
    return _spell({**mapping, "sha256": _self_hash(mapping)})


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert parse_manifest(manifest().text(), "here") == manifest()


def test_the_hash_is_that_of_sorted_compact_json_of_the_rest() -> None:
    mapping = json.loads(manifest().text())
    sha256 = mapping.pop("sha256")
    text = json.dumps(mapping, sort_keys=True, separators=(",", ":"))
    assert sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_it_has_the_keys_that_scripts_rely_on_and_a_line_for_each_file_and_tensor() -> None:
    text = manifest().text().decode()
    promised = "format step tokens samples order_hash data seed world_size engine run tracker origin code files tensors"
    assert set(promised.split()) <= json.loads(text).keys()
    assert sum("model/a" in line for line in text.splitlines()) == 1


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_is_found(bit: int) -> None:
    content = manifest(order_hash="é\n").text()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        with pytest.raises(CorruptError):
            parse_manifest(bytes(changed), "here")


@given(st.data())
def test_every_cut_and_every_inserted_byte_is_found(data: st.DataObject) -> None:
    content = manifest().text()
    place = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.binary(min_size=1, max_size=1))
    for changed in (content[:place], content[:place] + byte + content[place:]):
        with pytest.raises(CorruptError):
            parse_manifest(changed, "here")


@pytest.mark.parametrize("content", [b"", b"[]", b"1", b"{}", b'{"sha256": null}', b"\xff", b"[" * 100_000])
def test_what_is_no_manifest_at_all_is_corrupt(content: bytes) -> None:
    with pytest.raises(CorruptError):
        parse_manifest(content, "here")


def test_a_newer_format_asks_for_an_upgrade_and_is_not_called_corrupt() -> None:
    mapping = json.loads(manifest().text()) | {"format": 2, "novelty": 1}
    with pytest.raises(CheckpointError, match=r"format 2.*reads up to 1: upgrade") as caught:
        parse_manifest(resealed(mapping), "here")
    assert not isinstance(caught.value, CorruptError)


def test_an_authentic_manifest_of_another_schema_names_the_key_and_is_not_called_corrupt() -> None:
    mapping = json.loads(manifest().text()) | {"stepp": 3}
    with pytest.raises(CheckpointError, match="stepp: unknown key, did you mean 'step'") as caught:
        parse_manifest(resealed(mapping), "here")
    assert not isinstance(caught.value, CorruptError)


@pytest.mark.parametrize(
    "name",
    ["../a", "/etc/passwd", "a/../b", "a/b/c", "", ".hidden", "a//b", "weights/", "a\\b", "a\n", "manifest.json"],
)
def test_a_file_outside_the_folder_can_not_be_listed(name: str) -> None:
    mapping = json.loads(manifest().text())
    mapping["files"][name] = {"bytes": 1, "sha256": "a" * 64}
    with pytest.raises(CheckpointError, match="is no name for a file of a checkpoint"):
        parse_manifest(resealed(mapping), "here")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"length": 3}, "3 elements are held, the shape has 4"),
        ({"start": 1}, "elements 0 to 1 are missing"),
        ({"file": "weights/other"}, "weights/other is not among the files"),
        ({"length": 0}, "greater than 0"),
    ],
)
def test_pieces_that_do_not_make_a_tensor_whole_are_refused(change: dict[str, Any], reason: str) -> None:
    mapping = json.loads(manifest().text())
    mapping["tensors"]["model/a"]["segments"][0].update(change)
    with pytest.raises(CheckpointError, match=reason):
        parse_manifest(resealed(mapping), "here")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_have_can_not_be_sealed(value: float) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        manifest(run={"rate": value})


def test_it_exports_a_json_schema_with_descriptions() -> None:
    schema = Manifest.model_json_schema()
    assert schema["properties"]["samples"]["description"].startswith("Position of the run")
