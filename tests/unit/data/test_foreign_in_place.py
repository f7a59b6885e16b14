"""What another program wrote is read where it lies: described once, never touched, guarded like shards of ours."""

import importlib

import numpy as np
import pytest
from foreign_files import (
    companion_of,
    ids_of,
    llmc,
    megatron,
    mypt_conversations,
    mypt_episodes,
    mypt_pretraining,
    mypt_sft,
    nanogpt,
)
from prepare_corpus import files_of, tokens_of

import mypt_dist
from mypt_dist.data.batch import IGNORE
from mypt_dist.data.foreign import adopt, convert
from mypt_dist.data.foreign.convert import ForeignOptions
from mypt_dist.data.foreign.tokenizer import mypt_tokenizer
from mypt_dist.data.in_place import index_places
from mypt_dist.data.inspect import inspect_dataset
from mypt_dist.data.loader import TokenGather
from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.data.order import Order, SourceShape
from mypt_dist.data.stream import Reading, TokenStream
from mypt_dist.data.verify import verify_dataset
from mypt_dist.errors import ConfigError, DataError

adopt_module = importlib.import_module("mypt_dist.data.foreign.adopt")
TRAIN, VAL = ids_of(1, 700), ids_of(2, 60)
GPT2 = ForeignOptions(tokenizer="gpt2")


@pytest.fixture(autouse=True)
def cache(memory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(memory / "cache"))


def npy(folder):
    folder.mkdir()
    np.save(folder / "train_0.npy", TRAIN[:400].astype("i4"))
    np.save(folder / "train_1.npy", TRAIN[400:].astype("i4"))
    np.save(folder / "val_0.npy", VAL.astype("i4"))


def shards(folder):
    llmc(folder / "x_train_1.bin", TRAIN)
    llmc(folder / "x_val_1.bin", VAL)


MAKE = {
    "mypt": lambda folder: mypt_pretraining(folder, TRAIN, VAL, shard=300),
    "nanogpt": lambda folder: nanogpt(folder, TRAIN, VAL),
    "llmc": shards,
    "npy": npy,
}


@pytest.fixture(params=MAKE)
def source(request, memory):
    MAKE[request.param](memory / "theirs")
    return memory / "theirs"


def gathered(folder, reader="memmap", length=65):
    """Overlapping windows over everything, as training gathers them."""
    stream = TokenStream.open(folder, DatasetManifest.read(folder), "train", Reading(reader))
    starts = np.arange(0, len(stream) - length, 7)
    out = np.empty((len(starts), length), np.int64)
    assert stream.gather(starts, out) == {}
    return out


def test_it_is_read_like_its_conversion_and_stays_as_it_is(source, memory):
    before = files_of(source)
    manifest, where = adopt(source, GPT2)
    assert where == memory / ".theirs.dataset.json"
    assert files_of(source) == before
    convert(source, memory / "ours", GPT2)
    for reader in ("memmap", "pread"):
        np.testing.assert_array_equal(gathered(source, reader), gathered(memory / "ours", reader))
    ours = DatasetManifest.read(memory / "ours")
    assert ours.fingerprint != manifest.fingerprint, "other bytes"
    assert ours.sources == manifest.sources, "taken from the same"
    for split in ("train", "val"):
        mine, theirs = ours.split(split), manifest.split(split)
        assert (mine.tokens, mine.documents, mine.bytes) == (theirs.tokens, theirs.documents, theirs.bytes)
    assert verify_dataset(source) == []
    assert inspect_dataset(source).sample == inspect_dataset(memory / "ours").sample
    assert manifest.lineage.made_by == "adopt"


def test_describing_it_again_gives_the_same(source):
    first, where = adopt(source, GPT2)
    content = where.read_bytes()
    assert adopt(source, GPT2)[0].fingerprint == first.fingerprint
    assert where.read_bytes() == content


def test_a_damaged_block_is_found_when_it_is_first_read(source):
    adopt(source, GPT2)
    path = sorted(source.rglob("*train*.bin")) or sorted(source.rglob("*.bin")) or sorted(source.rglob("train*.npy"))
    data = bytearray(path[0].read_bytes())
    data[-3] ^= 1
    path[0].write_bytes(data)
    with pytest.raises(DataError, match=rf"{path[0].name}: block 0 .* is damaged"):
        gathered(source)
    assert any(path[0].name in problem for problem in verify_dataset(source))


def test_a_file_that_grew_or_is_gone_is_named(source):
    adopt(source, GPT2)
    path = sorted(source.rglob("*.*[yn]"))[-1]
    path.write_bytes(path.read_bytes() + b"\0\0\0\0")
    split = DatasetManifest.read(source)
    name = "val" if "val" in str(path.relative_to(source)) else "train"
    with pytest.raises(DataError, match=r"dataset.json says"):
        TokenStream.open(source, split, name)
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        TokenStream.open(source, split, name)


def test_where_its_parent_cannot_be_written_the_description_is_in_the_cache(memory, monkeypatch):
    source = nanogpt(memory / "theirs", TRAIN, VAL)
    beside, cached = index_places(source)
    real = adopt_module.write_new

    def write(path, data):
        if path.parent == beside.parent:
            raise PermissionError(13, "Permission denied")
        real(path, data)

    monkeypatch.setattr(adopt_module, "write_new", write)
    _, where = adopt(source, GPT2)
    assert where == cached
    assert tokens_of(source, "val") == VAL.tolist()
    assert not beside.exists()
    beside.write_text("an older one")
    with pytest.raises(DataError, match=r"the description of .* cannot be written: .*Permission denied"):
        adopt(source, GPT2)


def test_the_bytes_alone_do_not_say_what_they_mean(memory):
    values = np.array([1, 2, 3, 4], "u2")
    fingerprints = set()
    for name, dtype in (("a", "u2"), ("b", "u4")):
        (memory / name).mkdir()
        np.save(memory / name / "x.npy", values.view(dtype) % 1000 if dtype == "u4" else values)
        fingerprints.add(adopt(memory / name, GPT2)[0].fingerprint)
    assert len(fingerprints) == 2


MASKED = {
    "it has mask and segments": lambda f: mypt_sft(
        f,
        mypt_conversations(1, 3, mypt_tokenizer("mypt-2025-12").specials),
        mypt_conversations(2, 3, mypt_tokenizer("mypt-2025-12").specials),
    ),
    "it has mask, weights": lambda f: mypt_episodes(f, {"train": ([1], [1], [1.0], None, [(0, 1)])}),
    "its documents are in an index": lambda f: megatron(f / "x", [[1]], [0, 1]),
    "its tokens are of type <i8": lambda f: (f.mkdir(), np.save(f / "x.npy", np.array([1, 2]))),
}


@pytest.mark.parametrize("message", MASKED)
def test_what_says_more_than_tokens_is_to_be_converted(message, memory):
    MASKED[message](memory / "theirs")
    with pytest.raises(ConfigError, match=r"cannot be read in place: .*mypt data convert"):
        adopt(memory / "theirs", ForeignOptions(tokenizer="mypt-2025-12"))
    assert not any(place.exists() for place in index_places(memory / "theirs"))


def test_masked_data_is_not_trained_on_as_if_there_were_no_mask(memory):
    tags = mypt_tokenizer("mypt-2025-12").specials
    mypt_sft(memory / "sft", mypt_conversations(1, 9, tags), mypt_conversations(2, 9, tags))
    convert(memory / "sft", memory / "ours", ForeignOptions(tokenizer="mypt-2025-12"))
    manifest = DatasetManifest.read(memory / "ours")
    stream = TokenStream.open(memory / "ours", manifest, "train")
    context = len(stream) - 1
    batch = TokenGather([stream], manifest.load_tokenizer().byte_lengths(), manifest.vocab_size).batch(
        Order([SourceShape("main", len(stream))], context=context, seed=0).samples(0, 1), context
    )
    mask = companion_of(memory / "ours", "train", "mask")
    segments = companion_of(memory / "ours", "train", "segments")
    learned = (mask[1:] == 1) & (segments[1:] == segments[:-1])
    assert (batch.labels[0].numpy() != IGNORE).tolist() == learned.tolist()
    assert 0 < batch.num_targets == learned.sum() < context


def test_undescribed_data_is_refused_with_the_command_that_describes_it(memory, run_mapping):
    source = nanogpt(memory / "theirs", TRAIN, VAL)
    with pytest.raises(ConfigError, match=rf"mypt data adopt {source}"):
        mypt_dist.train({**run_mapping, "data": {"path": str(source)}})


def test_a_run_trains_on_it_in_place_as_on_its_conversion(memory, run_mapping, capsys):
    source = mypt_pretraining(memory / "theirs", TRAIN % 200, VAL % 200, shard=300)
    adopt(source)
    convert(source, memory / "ours")
    losses = []
    for name, path in (("a", source), ("b", memory / "ours")):
        model = {**run_mapping["model"], "n_embd": 8, "n_layer": 1, "context": 32}
        outcome = mypt_dist.train(
            {**run_mapping, "out": str(memory / name), "model": model, "data": {"path": str(path)}}, ["train.steps=3"]
        )
        losses.append((outcome.state.order_hash, outcome.state.tokens))
    assert losses[0] == losses[1]
