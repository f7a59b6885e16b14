"""Datasets of other programs become ours: every token, document, mask and weight."""

import hashlib
import json

import numpy as np
import pytest
from foreign_files import (
    GPT2_END,
    companion_of,
    ids_of,
    llmc,
    megatron,
    mypt_conversations,
    mypt_episodes,
    mypt_pretraining,
    mypt_sft,
    nanogpt,
    runs_of,
    write,
)
from prepare_corpus import tokens_of

from mypt_dist.data.foreign import convert
from mypt_dist.data.foreign.convert import ForeignOptions
from mypt_dist.data.foreign.tokenizer import mypt_tokenizer
from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.data.verify import verify_dataset
from mypt_dist.tokenizers import CharTokenizer, Gpt2Tokenizer

TRAIN, VAL = ids_of(1, 130), ids_of(2, 30)


def to_ours(source, out, tokenizer=None, **options):
    manifest = convert(source, out, ForeignOptions(tokenizer=tokenizer, **options))
    assert verify_dataset(out) == []
    assert DatasetManifest.read(out) == manifest
    return manifest


@pytest.fixture(params=["plain", "weighted"])
def pretraining(request, memory):
    return mypt_pretraining(memory / "mypt", TRAIN, VAL, weighted=request.param == "weighted")


def test_pretraining_shards_of_mypt(pretraining, memory):
    manifest = to_ours(pretraining, memory / "out", shard_tokens=50)
    assert tokens_of(memory / "out", "train") == TRAIN.tolist()
    assert tokens_of(memory / "out", "val") == VAL.tolist()
    assert manifest.dtype == "uint16", "ids fit"
    assert [shard.tokens for shard in manifest.splits.train.shards] == [50, 50, 30]
    assert manifest.tokenizer.fingerprint == Gpt2Tokenizer().fingerprint, "mixes with what is prepared here"
    assert manifest.splits.train.documents == 0, "it has no separators"
    assert manifest.settings["format"] == "mypt"
    text = Gpt2Tokenizer().byte_lengths()[TRAIN].sum()
    assert manifest.splits.train.bytes == text


def test_a_char_dataset_of_mypt_brings_its_characters(memory):
    chars = sorted("hello wörld")
    kinds = sorted(set(chars))
    state = {"token_kind": "char", "chars": kinds, "base_vocab_size": None}
    ids = [kinds.index(char) for char in "hello wörld" * 3]
    source = mypt_pretraining(memory / "mypt", ids, ids[:5], state=state, tokenization="char", vocab_size=len(kinds))
    manifest = to_ours(source, memory / "out")
    assert manifest.tokenizer.fingerprint == CharTokenizer.of(kinds).fingerprint
    assert manifest.load_tokenizer().decode(tokens_of(memory / "out", "train")[:11]) == "hello wörld"


@pytest.mark.parametrize("generation", ["mypt-2025-12", "mypt-2026-03"])
def test_conversations_of_mypt_keep_their_masks_and_borders(generation, memory):
    tags = dict(mypt_tokenizer(generation).specials)
    train, val = mypt_conversations(3, 12, tags), mypt_conversations(4, 3, tags)
    source = mypt_sft(memory / "sft", train, val, special_tokens_used=tags)
    manifest = to_ours(source, memory / "out", generation, shard_tokens=64)
    assert manifest.companions == ("mask", "segments")
    assert manifest.tokenizer.state["specials"] == tags
    for split, (tokens, mask, ends) in (("train", train), ("val", val)):
        assert tokens_of(memory / "out", split) == tokens.tolist()
        assert companion_of(memory / "out", split, "mask").tolist() == mask.tolist()
        assert runs_of(companion_of(memory / "out", split, "segments")) == np.diff([0, *ends]).tolist()
        assert manifest.split(split).documents == len(ends)


def test_the_tags_of_mypt_have_the_ids_they_had(memory):
    first, second = (dict(mypt_tokenizer(name).specials) for name in ("mypt-2025-12", "mypt-2026-03"))
    assert (first["<|endoftext|>"], first["<myPT_system>"], first["</myPT_system>"]) == (50256, 50257, 50258)
    assert (first["<myPT_user>"], first["<myPT_user_context>"], first["<myPT_assistant>"]) == (50259, 50261, 50263)
    assert (first["<myPT_assistant_context>"], first["<myPT_toolcall>"]) == (50265, 50267)
    assert (first["<myPT_toolresult>"], first["<myPT_eot>"], len(first)) == (50269, 50271, 16)
    assert (second["<myPT_assistant>"], second["<myPT_user_context>"], second["<myPT_think>"]) == (50261, 50263, 50271)
    assert (second["<myPT_cite>"], second["</myPT_cite>"], second["<myPT_eot>"]) == (50273, 50274, 50275)


def test_episodes_of_mypt_keep_masks_weights_and_segments(memory):
    tokens, mask = ids_of(5, 20), np.arange(20) % 2
    weights = np.linspace(0, 2, 20)
    segments = np.array([1] * 4 + [2] * 3 + [0] + [1] * 8 + [0] * 4)
    index = [(8, 8), (0, 8)]
    source = mypt_episodes(memory / "ep", {"train": (tokens, mask, weights, segments, index)})
    manifest = to_ours(source, memory / "out", "mypt-2026-03")
    order = [*range(8, 16), *range(8)]
    assert manifest.companions == ("mask", "weights", "segments")
    assert tokens_of(memory / "out", "train") == tokens[order].tolist()
    assert companion_of(memory / "out", "train", "mask").tolist() == mask[order].tolist()
    np.testing.assert_array_equal(companion_of(memory / "out", "train", "weights"), weights[order].astype("f4"))
    kept = companion_of(memory / "out", "train", "segments")
    assert runs_of(kept) == [8, 4, 3]
    assert (kept == 0).tolist() == (segments[order] == 0).tolist()
    assert manifest.splits.train.documents == 3


def test_episodes_without_segments_are_apart_all_the_same(memory):
    split = (ids_of(6, 12), np.ones(12), None, None, [(0, 5), (5, 4), (9, 3)])
    source = mypt_episodes(memory / "ep", {"train": split, "val": split})
    manifest = to_ours(source, memory / "out", "mypt-2026-03")
    assert manifest.companions == ("mask", "segments")
    assert runs_of(companion_of(memory / "out", "val", "segments")) == [5, 4, 3]


def test_more_episodes_than_a_block_holds(memory, monkeypatch):
    monkeypatch.setattr("mypt_dist.data.foreign.mypt_episodes.BLOCK_TOKENS", 7)
    lengths = [1, 20, 3, 6, 8, 2]
    starts = np.cumsum([0, *lengths[:-1]])
    tokens = ids_of(7, 40)
    split = (tokens, np.ones(40), None, None, list(zip(starts, lengths, strict=True)))
    to_ours(mypt_episodes(memory / "ep", {"train": split}), memory / "out", "mypt-2026-03")
    assert tokens_of(memory / "out", "train") == tokens.tolist()
    assert runs_of(companion_of(memory / "out", "train", "segments")) == lengths


def test_nanogpt(memory):
    train = TRAIN.copy()
    train[[10, 50]] = GPT2_END
    source = nanogpt(memory / "nano", train, VAL)
    manifest = to_ours(source, memory / "out", "gpt2")
    assert tokens_of(memory / "out", "train") == train.tolist()
    assert tokens_of(memory / "out", "val") == VAL.tolist()
    assert manifest.splits.train.documents == 2, "documents end with GPT-2's end of text"


def test_nanogpt_with_characters_is_read_from_the_text_and_not_from_the_pickle(memory):
    text = "First Citizen:\nSpeak, speak."
    (memory / "input.txt").write_text(text)
    kinds = sorted(set(text))
    source = nanogpt(memory / "nano", [kinds.index(char) for char in text], [0])
    to_ours(source, memory / "out", f"char:{memory}/input.txt")
    manifest = DatasetManifest.read(memory / "out")
    assert manifest.load_tokenizer().decode(tokens_of(memory / "out", "train")) == text


@pytest.mark.parametrize("named", ["folder", "prefix", "bin", "idx"])
def test_megatron_however_it_is_named(named, memory):
    prefix = megatron(memory / "m/my_text_document", [[1, 2], [3], [4, GPT2_END]], [0, 2, 3])
    places = {"folder": prefix.parent, "prefix": prefix}
    source = places.get(named, prefix.with_suffix(f".{named}"))
    manifest = to_ours(source, memory / "out", "gpt2")
    assert tokens_of(memory / "out", "train") == [1, 2, 3, GPT2_END, 4, GPT2_END], "each document has one end of text"
    assert manifest.splits.train.documents == 2
    assert manifest.settings["documents_there"] == 2


def test_megatron_with_a_file_for_validation(memory):
    megatron(memory / "m/corpus_train_text_document", [[1, 2]], [0, 1], "i4")
    megatron(memory / "m/corpus_valid_text_document", [[7]], [0, 1], "i4")
    to_ours(memory / "m", memory / "out", "gpt2")
    assert tokens_of(memory / "out", "train") == [1, 2, GPT2_END]
    assert tokens_of(memory / "out", "val") == [7, GPT2_END]


def test_llmc(memory):
    llmc(memory / "l/fineweb_train_000001.bin", TRAIN[:70])
    llmc(memory / "l/fineweb_train_000002.bin", TRAIN[70:])
    llmc(memory / "l/fineweb_val_000000.bin", VAL)
    to_ours(memory / "l", memory / "out", "gpt2")
    assert tokens_of(memory / "out", "train") == TRAIN.tolist()
    assert tokens_of(memory / "out", "val") == VAL.tolist()
    one = to_ours(memory / "l/fineweb_val_000000.bin", memory / "one", "gpt2")
    assert one.splits.val.tokens == 30


@pytest.mark.parametrize("dtype", ["u2", "u4", "i4", "i8", "<u8", ">u2"])
def test_npy(dtype, memory):
    (memory / "n").mkdir()
    np.save(memory / "n/edufineweb_train_000001.npy", TRAIN.astype(dtype))
    np.save(memory / "n/edufineweb_val_000000.npy", VAL.astype(dtype))
    to_ours(memory / "n", memory / "out", "gpt2")
    assert tokens_of(memory / "out", "train") == TRAIN.tolist()
    assert tokens_of(memory / "out", "val") == VAL.tolist()


def test_a_tokenizer_may_be_a_file_or_a_dataset(memory):
    source = nanogpt(memory / "nano", [1, 2, 3], [4])
    (memory / "byte.json").write_text(json.dumps(CharTokenizer.of("abcdef").state()))
    first = to_ours(source, memory / "a", str(memory / "byte.json"))
    second = to_ours(source, memory / "b", str(memory / "a"))
    assert first.fingerprint == second.fingerprint


def test_the_lineage_names_the_files_by_their_content(memory):
    source = nanogpt(memory / "nano", TRAIN, VAL)
    manifest = to_ours(source, memory / "out", "gpt2")
    (entry,) = manifest.sources
    lines = "".join(
        f"{hashlib.sha256((source / name).read_bytes()).hexdigest()}  {name}\n" for name in ("train.bin", "val.bin")
    )
    assert entry.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert (entry.path, entry.files) == (str(source), 2)
    assert manifest.lineage.made_by == "convert"
    assert set(manifest.lineage.tools) == {"mypt-dist", "python", "numpy", "tiktoken"}


def test_the_same_files_give_the_same_bytes_and_progress_counts_them_twice(memory):
    source, seen = nanogpt(memory / "nano", TRAIN, VAL), []
    for name in ("a", "b"):
        convert(source, memory / name, ForeignOptions(tokenizer="gpt2"), lambda *both: seen.append(both))
    assert (memory / "a/dataset.json").read_bytes() == (memory / "b/dataset.json").read_bytes()
    assert seen[-1] == (640, 640)


def test_memory_does_not_grow_with_the_data(memory):
    import tracemalloc

    peaks = []
    for count in (2 << 20, 8 << 20):
        write(memory / f"n{count}/train.bin", np.zeros(count), "u2")
        tracemalloc.start()
        convert(memory / f"n{count}", memory / f"o{count}", ForeignOptions(tokenizer="gpt2"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
