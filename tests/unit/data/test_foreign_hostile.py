"""What is not what it says of itself is refused with one message, and nothing is left behind."""

import json
import os
import pickle
import struct
from contextlib import suppress

import numpy as np
import pytest
from foreign_files import (
    ids_of,
    llmc,
    megatron,
    mypt_conversations,
    mypt_episodes,
    mypt_pretraining,
    mypt_sft,
    nanogpt,
    write,
    write_json,
)

from mypt_dist.cli.data_import import NAMES
from mypt_dist.data.foreign import FORMATS, adopt, convert
from mypt_dist.data.foreign.convert import ForeignOptions
from mypt_dist.data.foreign.tokenizer import mypt_tokenizer
from mypt_dist.errors import ConfigError, DataError, MyptError

TAGS = dict(mypt_tokenizer("mypt-2025-12").specials)
OLD, NEW = "mypt-2025-12", "mypt-2026-03"


def pretraining(folder, **changes):
    return mypt_pretraining(folder, ids_of(1, 90), ids_of(2, 30), **changes)


def sft(folder, **changes):
    return mypt_sft(folder, mypt_conversations(3, 9, TAGS), mypt_conversations(4, 2, TAGS), **changes)


def episodes(folder, index=((0, 6), (6, 4)), **changes):
    split = [ids_of(5, 10), np.ones(10), np.ones(10), np.ones(10), list(index)]
    for position, values in changes.items():
        split[int(position[1:])] = values
    return mypt_episodes(folder, {"train": tuple(split)})


def refused(source, memory, message, tokenizer=None, error=MyptError, **options):
    with pytest.raises(error, match=message) as caught:
        convert(source, memory / "out", ForeignOptions(tokenizer=tokenizer, **options))
    assert caught.value.exit_code in (2, 3)
    assert not (memory / "out").exists()


def converted(source, options):
    return convert(source, source.parent / "out", options)


def cut(path, size=-1):
    path.write_bytes(path.read_bytes()[:size])


PRETRAINING = {
    "is not 0 and a whole number of 4-byte values": lambda f: cut(f / "train/shard_00001.bin"),
    "says 120 tokens, there are 119": lambda f: cut(f / "train/shard_00002.bin", -4),
    "says 3 train shards, there are 2": lambda f: (f / "train/shard_00002.bin").unlink(),
    "shard_00001.bin is missing; after it comes shard_00002.bin": lambda f: (f / "train/shard_00001.bin").unlink(),
    "tokenizer with|token_kind is 'bpe'": lambda f: write_json(f / "tokenizer_state.json", {"token_kind": "bpe"}),
    "tokenizer_state.json must hold an object": lambda f: write_json(f / "tokenizer_state.json", [1]),
    "metadata.json is not valid JSON": lambda f: (f / "dataset_metadata.json").write_text("{"),
    "total_tokens is -1, must be a number": lambda f: write_json(f / "dataset_metadata.json", {"total_tokens": -1}),
    "chars must be a list": lambda f: write_json(f / "tokenizer_state.json", {"token_kind": "char", "chars": "abc"}),
    "in the order of their code points": lambda f: write_json(
        f / "tokenizer_state.json", {"token_kind": "char", "chars": ["b", "a"]}
    ),
    "holds token 50,257; .*has ids 0 to 50,256: the data was written with another": lambda f: write(
        f / "val/shard_00000.bin", [50257] * 30, "u4"
    ),
    "holds token 4,294,967,295": lambda f: write(f / "val/shard_00000.bin", [2**32 - 1] * 30, "u4"),
}


@pytest.mark.parametrize("message", PRETRAINING)
def test_pretraining_shards(message, memory):
    source = pretraining(memory / "m")
    PRETRAINING[message](source)
    refused(source, memory, message)


def test_a_weighted_dataset_that_does_not_say_its_tokenizer(memory):
    source = pretraining(memory / "m", weighted=True, tokenization="char")
    refused(source, memory, "does not say with which tokenizer", error=ConfigError)


def test_a_tokenizer_that_contradicts_the_one_named_there(memory):
    refused(pretraining(memory / "m"), memory, "is a byte tokenizer; the data was written with a gpt2", "byte")


SFT = {
    ("its tags were numbered in more than one way", None): lambda f: None,
    ("says that <myPT_user_context> is a tag with id 50261; .* it has id 50263", NEW): lambda f: sft(
        f, special_tokens_used=TAGS
    ),
    ("says that <myPT_x> is a tag; in the chosen tokenizer it is none", OLD): lambda f: sft(
        f, special_tokens_used=["<myPT_x>"]
    ),
    ("says 11 conversations.*there are 2", NEW): lambda f: None,
    ("has a mask for 49 tokens, shard_00001.bin has 50", OLD): lambda f: cut(f / "train/shard_00001_mask.bin"),
    ("holds 2, a mask is 0 or 1", OLD): lambda f: write(f / "train/shard_00001_mask.bin", [2] * 50, "u1"),
    ("no such file: .*shard_00001_mask.bin", OLD): lambda f: (f / "train/shard_00001_mask.bin").unlink(),
    ("train tokens, there are", OLD): lambda f: (
        cut(sorted(f.glob("train/shard_?????.bin"))[-1], -2),
        cut(sorted(f.glob("train/*_mask.bin"))[-1], -1),
    ),
}


@pytest.mark.parametrize(("message", "tokenizer"), SFT)
def test_masked_shards(message, tokenizer, memory):
    source = sft(memory / "s")
    SFT[message, tokenizer](source)
    refused(source, memory, message, tokenizer)


EPISODES = {
    "has an episode of tokens 6 to 11, tokens.bin has 10": lambda f: episodes(f, ((0, 6), (6, 5))),
    "has an episode of tokens 18,446,744,073,709,551,615": lambda f: episodes(f, ((2**64 - 1, 2),)),
    "has 3 numbers, an odd one": lambda f: cut(f / "train/episodes.idx", -8),
    "a whole number of 8-byte values": lambda f: cut(f / "train/episodes.idx", -3),
    "mask.bin has 9 values, tokens.bin has 10": lambda f: cut(f / "train/mask.bin"),
    "segment_ids.bin has 9 values": lambda f: cut(f / "train/segment_ids.bin"),
    "mask_weighted.bin has 9 values": lambda f: cut(f / "train/mask_weighted.bin", -4),
    "a weight that is negative, infinite or no number": lambda f: episodes(f, _2=np.full(10, np.nan)),
    "weight that is negative": lambda f: episodes(f, _2=np.full(10, -1)),
    "holds 7, a mask is 0 or 1": lambda f: episodes(f, _1=np.full(10, 7)),
    "there is not a single token": lambda f: episodes(f, ()),
    "do not have the same files beside": lambda f: mypt_episodes(
        f, {"val": (ids_of(1, 2), [1, 1], None, None, [(0, 2)])}
    ),
}


@pytest.mark.parametrize("message", EPISODES)
def test_episodes(message, memory):
    source = episodes(memory / "e")
    EPISODES[message](source)
    refused(source, memory, message, OLD)


def test_nanogpt(memory):
    source = nanogpt(memory / "n", [1, 2], [3])
    refused(source, memory, "does not say with which tokenizer: say which.*--tokenizer gpt2")
    refused(source, memory, "no such tokenizer, did you mean 'gpt2'", "gtp2")
    refused(nanogpt(source, [50300], [1]), memory, "holds token 50,300", "gpt2")
    cut(source / "train.bin", 1)
    refused(source, memory, "1 bytes: that is not 0 and a whole number of 2-byte values", "gpt2")


def test_a_pickle_is_never_opened(memory):
    source, canary = nanogpt(memory / "n", [1, 2], [3]), memory / "executed"
    program = f"cos\nsystem\n(S'touch {canary}'\ntR."
    (source / "meta.pkl").write_bytes(program.encode())
    (source / "data.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}")
    refused(source, memory, "to open a pickle is to run what is in it", **{"format": "nanogpt"})
    for name, make in ((name, make) for name in FORMATS for make in (converted, adopt)):
        with suppress(MyptError):
            make(source, ForeignOptions(format=name, tokenizer="byte", overwrite=True))
    assert not canary.exists()
    pickle.loads(program.encode())  # noqa: S301
    assert canary.exists(), "it would have been seen"


NPY = {
    r"x.npy is no row of integers; its header is .*\(2, 2\)": np.zeros((2, 2), "u2"),
    "is no row of integers; its header is .*<f4": np.zeros(3, "f4"),
    "holds -1, which is no id of a token": np.array([-1, 2], "i4"),
    "holds 1099511627776, which is no id": np.array([1 << 40], "i8"),
    r"is no row of integers; its header is .*\|O": np.array([{}], object),
}


@pytest.mark.parametrize("message", NPY)
def test_npy(message, memory):
    np.save(memory / "x.npy", NPY[message], allow_pickle=True)
    refused(memory / "x.npy", memory, message, "gpt2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-2], "says 3 tokens, it holds 2"),
        (lambda data: data[:-1], "whole number of 2-byte values"),
        (lambda data: data[:20], "is no row of integers"),
        (lambda data: data[:6] + b"\x09" + data[7:], "does not begin as an .npy file does"),
        (lambda data: data[:11], "does not begin as an .npy file does"),
        (lambda data: data[:8] + b"\xff\xff" + data[10:], "is no row of integers"),
        (lambda data: data.replace(b"(3,)", b"(-1,"), "is no row of integers"),
        (lambda data: data.replace(b"(3,)", b"(9,)"), "says 9 tokens, it holds 3"),
        (lambda data: data.replace(b"'descr'", b"__import__"), "is no row of integers"),
    ],
)
def test_a_damaged_npy(change, message, memory):
    np.save(memory / "x.npy", np.arange(3, dtype="u2"))
    (memory / "x.npy").write_bytes(change((memory / "x.npy").read_bytes()))
    refused(memory / "x.npy", memory, message, "gpt2", error=DataError)


def test_llmc(memory):
    path = memory / "l/a_train_0.bin"
    llmc(path, [1, 2, 3], count=4)
    refused(path, memory, "its header says 4 tokens, it holds 3", "gpt2", error=DataError)
    llmc(path, [1, 2, 3], count=-1)
    refused(path, memory, "its header says -1 tokens, it holds 3", "gpt2", error=DataError)
    cut(path, 700)
    refused(path, memory, "has 700 bytes: that is not 1,024 and", "gpt2", error=DataError)
    llmc(path, [1])
    write(memory / "l/b_train_1.bin", [1, 2, 3], "u2")
    refused(memory / "l", memory, "b_train_1.bin does not begin with the header of llm.c", "gpt2")


def index_with(prefix, at, value):
    data = bytearray(prefix.with_suffix(".idx").read_bytes())
    data[at : at + len(value)] = value
    prefix.with_suffix(".idx").write_bytes(data)


MEGATRON = {
    "has version 2, only 1 is known": lambda p: index_with(p, 9, struct.pack("<Q", 2)),
    "tokens are of type 7": lambda p: index_with(p, 17, b"\x07"),
    "tokens are of type 255": lambda p: index_with(p, 17, b"\xff"),
    "18,446,744,073,709,551,615 sequences": lambda p: index_with(p, 18, struct.pack("<Q", 2**64 - 1)),
    "borders of documents need": lambda p: index_with(p, 26, struct.pack("<Q", 99)),
    "a sequence of -1 tokens": lambda p: index_with(p, 34, struct.pack("<i", -1)),
    "a sequence of 2,147,483,647 tokens at byte 0 is not in": lambda p: index_with(p, 34, struct.pack("<i", 2**31 - 1)),
    "at byte -2 is not in": lambda p: index_with(p, 46, struct.pack("<q", -2)),
    "at byte 1 is not in": lambda p: index_with(p, 46, struct.pack("<q", 1)),
    "at byte 9,223,372,036,854,775,806 is not": lambda p: index_with(p, 46, struct.pack("<q", 2**63 - 2)),
    "begins at sequence 1, not at 0": lambda p: index_with(p, 70, struct.pack("<q", 1)),
    "from sequence 0 to -5, of 3": lambda p: index_with(p, 78, struct.pack("<q", -5)),
    "from sequence 0 to 9, of 3": lambda p: index_with(p, 78, struct.pack("<q", 9)),
    "documents end at sequence 2, there are 3": lambda p: index_with(p, 86, struct.pack("<q", 2)),
    "it was cut short, or is damaged": lambda p: cut(p.with_suffix(".idx")),
    "and a header": lambda p: cut(p.with_suffix(".idx"), 20),
    "whole number of 2-byte values": lambda p: cut(p.with_suffix(".bin")),
    "no such file": lambda p: p.with_suffix(".bin").unlink(),
}


@pytest.mark.parametrize("message", MEGATRON)
def test_megatron(message, memory):
    prefix = megatron(memory / "m/x", [[1, 2], [3], [4, 5]], [0, 2, 3])
    MEGATRON[message](prefix)
    refused(prefix.with_suffix(".idx"), memory, message, "gpt2")


def test_what_could_be_several_things_is_asked_for(memory):
    source = nanogpt(memory / "n", [1, 2], [3])
    megatron(source / "corpus", [[1]], [0, 1])
    refused(source, memory, "could be more than one thing; say which:\n  --from nanogpt.*\n  --from megatron", "gpt2")
    convert(source, memory / "out", ForeignOptions(format="nanogpt", tokenizer="gpt2"))


def test_help_names_every_format():
    assert NAMES.split("|") == list(FORMATS)


def test_what_is_nothing_is_told_all_formats(memory):
    (memory / "x").mkdir()
    refused(memory / "x", memory, "holds no dataset of a known format; known are\n  mypt: ")
    refused(memory / "absent", memory, "holds no dataset of a known format")
    refused(memory / "x", memory, "--from nano: no such format, did you mean 'nanogpt'", format="nano")
    refused(memory / "x", memory, "holds no train.bin and val.bin of nanoGPT", format="nanogpt")
    source = pretraining(memory / "m")
    refused(source, memory, "of nanoGPT, but pretraining shards of MyPT", format="nanogpt")


def test_ours_is_no_foreign_dataset(memory):
    source = nanogpt(memory / "n", [1, 2], [3])
    convert(source, memory / "ours", ForeignOptions(tokenizer="gpt2"))
    refused(memory / "ours", memory, "is a dataset of this program already")


def test_the_source_is_not_written_into(memory):
    source = nanogpt(memory / "n", [1, 2], [3])
    for out in (source, source / "ours", memory):
        with pytest.raises(ConfigError, match="overlap; what is read stays as it is"):
            convert(source, out, ForeignOptions(tokenizer="gpt2"))
    assert sorted(path.name for path in source.iterdir()) == ["train.bin", "val.bin"]


def test_a_file_that_changes_meanwhile_is_noticed(memory):
    source = nanogpt(memory / "n", [1, 2], [3])

    def progress(done, total):
        if done == total:
            write(source / "train.bin", [1, 9], "u2")
            os.utime(source / "train.bin", ns=(1, 1))

    with pytest.raises(DataError, match=r"train.bin changed while it was read"):
        convert(source, memory / "out", ForeignOptions(tokenizer="gpt2"), progress)
    assert not (memory / "out").exists()


def test_a_finished_dataset_is_not_replaced_unasked(memory):
    source = nanogpt(memory / "n", [1, 2], [3])
    convert(source, memory / "ours", ForeignOptions(tokenizer="gpt2"))
    before = (memory / "ours/dataset.json").read_bytes()
    nanogpt(source, [60000], [3])
    for overwrite in (False, True):
        with pytest.raises(ConfigError):
            convert(source, memory / "ours", ForeignOptions(tokenizer="gpt2", overwrite=overwrite))
    assert (memory / "ours/dataset.json").read_bytes() == before


def test_a_carried_state_that_is_json_of_something_else(memory):
    (memory / "state.json").write_text(json.dumps({"kind": "char"}))
    source = nanogpt(memory / "n", [1, 2], [3])
    refused(source, memory, "state of the char tokenizer", str(memory / "state.json"))
    refused(source, memory, "the text cannot be read", f"char:{memory}/absent.txt")
