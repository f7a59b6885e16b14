"""Token shards and the manifest that lists them."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mypt_dist.data.entries import CompanionEntry
from mypt_dist.data.manifest import Counts, DatasetManifest, ShardEntry, SplitEntry, Splits, dtype_for, shard_name
from mypt_dist.data.shards import HEADER_BYTES, ShardHeader, open_shard, read_tokens
from mypt_dist.errors import ConfigError, DataError
from mypt_dist.tokenizers import ByteTokenizer, CharTokenizer

TOKENIZER = ByteTokenizer()
EMPTY = SplitEntry(tokens=0, documents=0, bytes=0, shards=())


def header(tokens, dtype="uint16"):
    return ShardHeader(dtype, tokens, TOKENIZER.vocab_size, TOKENIZER.fingerprint[:32])


def write_shard(folder, index, tokens, dtype="<u2"):
    data = header(len(tokens)).pack() + np.array(tokens, dtype).tobytes()
    name = shard_name("train", index)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return ShardEntry(file=name, bytes=len(data), tokens=len(tokens), sha256=hashlib.sha256(data).hexdigest())


def manifest_of(shards, tokenizer=TOKENIZER):
    tokens = sum(shard.tokens for shard in shards)
    train = SplitEntry(tokens=tokens, documents=1, bytes=tokens - 1, shards=tuple(shards))
    return DatasetManifest.create(tokenizer, Splits(train=train, val=EMPTY), (), Counts(files=1), {"val_fraction": 0.5})


def test_the_hash_of_a_manifest_is_that_of_its_canonical_json(tmp_path):
    entries = [write_shard(tmp_path, index, [1, 2, 3]) for index in range(2)]
    mask = CompanionEntry(file="train/shard-00000.mask.bin", bytes=3, sha256="0" * 64, crc32="00ff00ff")
    sealed = [entries[0].model_copy(update={"crc32": "0123abcd", "companions": {"mask": mask}}), entries[1]]
    train = SplitEntry(tokens=6, documents=1, bytes=5, shards=tuple(sealed))
    settings = {"name": 'a "crc32":NaN of a text', "crc32": "f00d"}
    manifest = DatasetManifest.create(TOKENIZER, Splits(train=train, val=EMPTY), (), Counts(), settings)
    content = manifest.model_dump(mode="json", exclude={"sha256"})
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert manifest.sha256 == hashlib.sha256(canonical.encode()).hexdigest()


@pytest.fixture
def dataset(tmp_path):
    """A folder of two shards of 5 and 3 tokens."""
    manifest = manifest_of([write_shard(tmp_path, 0, [1, 2, 3, 4, 5]), write_shard(tmp_path, 1, [6, 7, 256])])
    (tmp_path / "dataset.json").write_bytes(manifest.to_bytes())
    return tmp_path


def edit(folder, change, *, hashed=True):
    """Change dataset.json, with a right hash or without."""
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    change(content)
    if hashed:
        del content["sha256"]
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        content["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    path.write_text(json.dumps(content))


def test_tokens_come_back_read_only_and_mapped(dataset):
    manifest = DatasetManifest.read(dataset)
    first, second = manifest.splits.train.shards
    tokens = open_shard(dataset, first, manifest.dtype, manifest.tokenizer.fingerprint)
    assert isinstance(tokens, np.memmap)
    assert tokens.tolist() == [1, 2, 3, 4, 5]
    assert not tokens.flags.writeable
    assert open_shard(dataset, second, manifest.dtype).tolist() == [6, 7, 256]


def test_tokens_are_read_in_bounded_pieces(dataset):
    shard = DatasetManifest.read(dataset).splits.train.shards[0]
    assert [part.tolist() for part in read_tokens(dataset, shard, "uint16", 4)] == [
        [1, 2],
        [3, 4],
        [5],
    ]
    with pytest.raises(DataError, match="cannot be read"):
        list(read_tokens(dataset / "absent", shard, "uint16"))


@given(
    st.sampled_from(["uint16", "uint32"]),
    st.integers(0, 2**63),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=16, max_size=16),
)
def test_a_header_comes_back(dtype, tokens, vocab_size, tokenizer):
    written = ShardHeader(dtype, tokens, vocab_size, tokenizer.hex())
    packed = written.pack()
    assert len(packed) == HEADER_BYTES
    assert ShardHeader.unpack(packed, "x") == written


@pytest.mark.parametrize("position", range(HEADER_BYTES))
def test_every_flipped_bit_of_a_header_is_found(position):
    packed = header(10).pack()
    for bit in range(8):
        damaged = bytearray(packed)
        damaged[position] ^= 1 << bit
        with pytest.raises(DataError):
            ShardHeader.unpack(bytes(damaged), "x")


def test_another_kind_of_file_is_refused():
    with pytest.raises(DataError, match=r"notes.bin is not a token shard"):
        ShardHeader.unpack(b"PK" + bytes(100), "notes.bin")
    with pytest.raises(DataError, match=r"x ends inside its header: 9 of 64 bytes"):
        ShardHeader.unpack(b"MYPTSHRD1", "x")


@pytest.mark.parametrize(("field", "value", "message"), [(8, 2, "shard format 2"), (12, 8, "tokens of 8 bytes")])
def test_a_header_of_another_format_is_refused(field, value, message):
    import struct
    import zlib

    packed = bytearray(header(10).pack())
    packed[field : field + 4] = struct.pack("<I", value)
    packed[60:] = struct.pack("<I", zlib.crc32(packed[:60]))
    with pytest.raises(DataError, match=message):
        ShardHeader.unpack(bytes(packed), "x")


def test_a_truncated_shard_is_refused_with_both_sizes(dataset):
    path = dataset / "train/shard-00000.bin"
    path.write_bytes(path.read_bytes()[:-1])
    entry = DatasetManifest.read(dataset).splits.train.shards[0]
    with pytest.raises(DataError, match=r"shard-00000.bin has 73 bytes, dataset.json says 74"):
        open_shard(dataset, entry, "uint16")


def test_a_shard_of_another_dataset_is_refused(dataset):
    entry = DatasetManifest.read(dataset).splits.train.shards[0]
    other = CharTokenizer.of("abc").fingerprint
    with pytest.raises(DataError, match=f"tokenizer {TOKENIZER.fingerprint[:32]}, dataset.json says {other[:32]}"):
        open_shard(dataset, entry, "uint16", other)


def test_a_header_that_contradicts_the_manifest_is_refused(dataset):
    entry = DatasetManifest.read(dataset).splits.train.shards[0]
    with pytest.raises(DataError, match=r"says dtype uint16, dataset.json says uint32"):
        open_shard(dataset, entry, "uint32")
    path = dataset / entry.file
    path.write_bytes(header(4).pack() + path.read_bytes()[HEADER_BYTES:])
    with pytest.raises(DataError, match=r"says tokens 4, dataset.json says 5"):
        open_shard(dataset, entry, "uint16")


def test_a_missing_or_unreadable_shard_is_refused(dataset):
    entry = DatasetManifest.read(dataset).splits.train.shards[0]
    (dataset / entry.file).unlink()
    with pytest.raises(DataError, match=r"shard-00000.bin is missing; dataset.json lists it with 5 tokens"):
        open_shard(dataset, entry, "uint16")
    (dataset / entry.file).mkdir()
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        open_shard(dataset, entry, "uint16")


def test_a_billion_tokens_are_opened_without_reading_them(tmp_path):
    tokens = 10**9
    (tmp_path / "train").mkdir()
    path = tmp_path / shard_name("train", 0)
    with path.open("wb") as file:
        file.write(header(tokens).pack())
        file.truncate(HEADER_BYTES + 2 * tokens)
    entry = ShardEntry(file=shard_name("train", 0), bytes=HEADER_BYTES + 2 * tokens, tokens=tokens, sha256="0" * 64)
    assert open_shard(tmp_path, entry, "uint16").shape == (tokens,)
    # A hole in the file stays one: nothing was written, and reading it all would take seconds.
    assert path.stat().st_blocks * 512 < 1 << 20


def test_the_smallest_type_that_fits_is_chosen():
    assert [dtype_for(size) for size in (2, 50274, 65536, 65537)] == ["uint16", "uint16", "uint16", "uint32"]


def test_a_manifest_comes_back(dataset):
    manifest = DatasetManifest.read(dataset)
    assert manifest.to_bytes() == (dataset / "dataset.json").read_bytes()
    assert manifest.split("train").tokens == 8
    assert manifest.split("val").shards == ()
    assert manifest.load_tokenizer().fingerprint == TOKENIZER.fingerprint


def test_the_fingerprint_is_of_the_content_alone(dataset):
    manifest = DatasetManifest.read(dataset)
    shards = manifest.splits.train.shards
    again = DatasetManifest.create(TOKENIZER, manifest.splits, (), Counts(files=99), {})
    assert again.fingerprint == manifest.fingerprint
    swapped = [
        shards[1].model_copy(update={"file": shards[0].file}),
        shards[0].model_copy(update={"file": shards[1].file}),
    ]
    assert manifest_of(swapped).fingerprint != manifest.fingerprint
    assert manifest_of(shards, CharTokenizer.of("abc")).fingerprint != manifest.fingerprint


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("")])
def test_no_dataset_is_a_mistake_of_the_user_and_says_how_to_make_one(tmp_path, make):
    make(tmp_path / "data")
    with pytest.raises(ConfigError, match="mypt data prepare INPUT") as caught:
        DatasetManifest.read(tmp_path / "data")
    assert caught.value.exit_code == 2


def test_a_folder_that_cannot_be_read_is_a_data_error(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.is_dir", refuse)
    with pytest.raises(DataError, match=r"dataset.json cannot be read: Permission denied"):
        DatasetManifest.read(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"format": 1, "format": 1}', '{"format": 1, "x": NaN}', '{"format": 1}']
)
def test_a_damaged_manifest_is_a_data_error(dataset, text):
    (dataset / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset.json"):
        DatasetManifest.read(dataset)


def test_a_newer_format_is_refused(dataset):
    edit(dataset, lambda content: content.update(format=3))
    with pytest.raises(DataError, match="has format 3, this version of mypt-dist reads 1 and 2"):
        DatasetManifest.read(dataset)


def test_an_edited_manifest_is_refused(dataset):
    edit(dataset, lambda content: content["settings"].update(val_fraction=0.6), hashed=False)
    with pytest.raises(DataError, match="damaged or edited"):
        DatasetManifest.read(dataset)


@pytest.mark.parametrize(
    "name", ["../x.bin", "/etc/passwd", "train/../x", "test/shard-00000.bin", "train/shard-00000.bin\n"]
)
def test_a_shard_outside_the_folder_is_refused(dataset, name):
    edit(dataset, lambda content: content["splits"]["train"]["shards"][0].update(file=name))
    with pytest.raises(DataError, match=r"splits.train.shards.0.file"):
        DatasetManifest.read(dataset)


CONTRADICTIONS = {
    "tokenizer.kind is 'gpt2'": lambda c: c["tokenizer"].update(kind="gpt2"),
    "tokenizer.fingerprint is '0000": lambda c: c["tokenizer"].update(fingerprint="0" * 64),
    "vocab_size is 275, should be 274": lambda c: c.update(vocab_size=275),
    "eot_id is 1, should be 256": lambda c: c.update(eot_id=1),
    "dtype is 'uint32', should be 'uint16'": lambda c: c.update(dtype="uint32"),
    "fingerprint is '0000": lambda c: c.update(fingerprint="0" * 64),
    "splits.train.tokens is 9, should be 8": lambda c: c["splits"]["train"].update(tokens=9),
    "splits.train.shards.1.bytes is 71, should be 70": lambda c: c["splits"]["train"]["shards"][1].update(bytes=71),
    "splits.train.shards.0.file is 'val/": lambda c: c["splits"]["train"]["shards"][0].update(
        file="val/shard-00000.bin"
    ),
}


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself_is_refused(dataset, message):
    edit(dataset, CONTRADICTIONS[message])
    with pytest.raises(DataError, match=f"contradicts itself:\n(.|\n)*{message}"):
        DatasetManifest.read(dataset)


def test_a_tokenizer_that_cannot_be_built_is_a_data_error(dataset):
    manifest = DatasetManifest.read(dataset)
    record = manifest.tokenizer.model_copy(update={"state": {**manifest.tokenizer.state, "kind": "wordpiece"}})
    with pytest.raises(DataError, match=r"in dataset.json cannot be used: no tokenizer is called 'wordpiece'"):
        manifest.model_copy(update={"tokenizer": record}).load_tokenizer()


def test_a_missing_split_is_refused(dataset):
    edit(dataset, lambda content: content["splits"].pop("val"))
    with pytest.raises(DataError, match=r"splits.val"):
        DatasetManifest.read(dataset)


def test_a_folder_can_be_moved(dataset, tmp_path_factory):
    target = tmp_path_factory.mktemp("elsewhere") / "data"
    shutil.move(dataset, target)
    manifest = DatasetManifest.read(target)
    assert open_shard(target, manifest.splits.train.shards[0], manifest.dtype).tolist() == [1, 2, 3, 4, 5]
