"""Any flipped byte of a dataset is found."""

import shutil

import pytest

from mypt_dist.data.manifest import HEADER_BYTES, DatasetManifest
from mypt_dist.data.prepare import PrepareSettings, prepare
from mypt_dist.data.shards import ShardHeader
from mypt_dist.data.verify import verify_dataset
from mypt_dist.errors import ConfigError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    (folder / "in").mkdir()
    for i in range(12):
        (folder / "in" / f"{i}.txt").write_text(f"text {i}")
    prepare([folder / "in"], folder / "out", PrepareSettings(tokenizer="byte", val_fraction=0.3, shard_tokens=50))
    return folder / "out"


@pytest.fixture
def dataset(made, tmp_path):
    return shutil.copytree(made, tmp_path / "data")


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_whole_dataset_has_no_problem_and_progress_counts_every_byte(dataset):
    seen = []
    assert verify_dataset(dataset, lambda done, total: seen.append((done, total))) == []
    size = sum(path.stat().st_size for path in files_of(dataset) if path.suffix == ".bin")
    assert seen[-1] == (size, size)
    assert len(files_of(dataset)) >= 4


def test_every_flipped_byte_of_every_file_is_found(dataset):
    masks = (0x01, 0x20, 0x80, 0xFF, 0x04)
    for path in files_of(dataset):
        data = path.read_bytes()
        for position in range(len(data)):
            damaged = bytearray(data)
            mask = masks[position % len(masks)]
            damaged[position] ^= mask
            path.write_bytes(damaged)
            assert verify_dataset(dataset), f"byte {position} of {path.name} ^ {mask:#x} went unnoticed"
        path.write_bytes(data)
    assert verify_dataset(dataset) == []


def test_the_manifest_must_be_spelled_as_it_was_written(dataset):
    path = dataset / "dataset.json"
    path.write_bytes(path.read_bytes().replace(b": ", b":\t", 1))
    DatasetManifest.read(dataset)
    assert verify_dataset(dataset) == [f"{path} was edited: it says the same in another spelling"]


def test_what_is_missing_or_cut_or_too_much_is_named(dataset):
    first, second = (dataset / "train/shard-00000.bin", dataset / "train/shard-00001.bin")
    first.unlink()
    second.write_bytes(second.read_bytes() + b"\0\0")
    (dataset / "val/notes.txt").write_text("x")
    (dataset / "train/link").symlink_to("nowhere")
    size = second.stat().st_size
    assert verify_dataset(dataset) == [
        f"{first} is missing",
        f"{second} has {size:,} bytes, dataset.json says {size - 2:,}",
        f"{dataset / 'train/link'} does not belong to the dataset",
        f"{dataset / 'val/notes.txt'} does not belong to the dataset",
    ]


def test_swapped_shards_are_found(dataset):
    first, second = (dataset / "train/shard-00000.bin", dataset / "train/shard-00001.bin")
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    assert verify_dataset(dataset)


def test_a_shard_that_cannot_be_read_is_named(dataset):
    path = dataset / "train/shard-00000.bin"
    path.unlink()
    path.mkdir()
    assert verify_dataset(dataset)[0] == f"{path} cannot be read: Is a directory"


def rehashed(dataset, change):
    """A dataset that a faulty program wrote: wrong tokens, right hashes."""
    import hashlib

    manifest = DatasetManifest.read(dataset)
    entry = manifest.splits.train.shards[0]
    data = change((dataset / entry.file).read_bytes())
    (dataset / entry.file).write_bytes(data)
    wrong = entry.model_copy(update={"sha256": hashlib.sha256(data).hexdigest(), "crc32": None})
    train = manifest.splits.train.model_copy(update={"shards": (wrong, *manifest.splits.train.shards[1:])})
    splits = manifest.splits.model_copy(update={"train": train})
    rewritten = DatasetManifest.create(
        manifest.load_tokenizer(), splits, manifest.sources, manifest.counts, manifest.settings
    )
    (dataset / "dataset.json").write_bytes(rewritten.to_bytes())
    return dataset / entry.file


def test_ids_outside_the_vocabulary_are_found_though_all_hashes_are_right(dataset):
    path = rehashed(dataset, lambda data: data[:HEADER_BYTES] + b"\x12\x01" + data[HEADER_BYTES + 2 :])
    assert verify_dataset(dataset) == [f"{path} holds token 274, the vocabulary has 274"]


def test_a_wrong_header_is_found_though_all_hashes_are_right(dataset):
    wrong = ShardHeader("uint16", 50, 99, "0" * 32).pack()
    path = rehashed(dataset, lambda data: wrong + data[HEADER_BYTES:])
    assert verify_dataset(dataset) == [f"{path}: its header says vocab_size 99, dataset.json says 274"]


def test_a_wrong_number_of_documents_is_found_though_all_hashes_are_right(dataset):
    documents = DatasetManifest.read(dataset).splits.train.documents
    rehashed(dataset, lambda data: data[:HEADER_BYTES] + b"\x00\x01" + data[HEADER_BYTES + 2 :])
    assert verify_dataset(dataset) == [f"train holds {documents + 1} documents, dataset.json says {documents}"]


def test_no_dataset_is_a_mistake_of_the_user(tmp_path):
    with pytest.raises(ConfigError, match="no dataset at"):
        verify_dataset(tmp_path / "absent")
