"""Files as other programs write them: MyPT's from its description, the others' from their formats."""

import json
import struct

import numpy as np

from mypt_dist.data.companions import COMPANIONS
from mypt_dist.data.manifest import DatasetManifest

GPT2_END = 50256
TYPE_CODES = {"u1": 1, "i1": 2, "i2": 3, "i4": 4, "i8": 5, "f8": 6, "f4": 7, "u2": 8}


def ids_of(seed, count, below=GPT2_END):
    return np.random.default_rng(seed).integers(0, below, count)


def write(path, values, dtype):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.asarray(values).astype(np.dtype(dtype).newbyteorder("<")).tobytes())


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def mypt_pretraining(folder, train, val, *, shard=40, weighted=False, state=None, **changes):
    """``{train,val}/shard_%05d.bin`` uint32; the real ones have 10,000,000 tokens in a shard."""
    shards = {}
    for split, tokens in (("train", train), ("val", val)):
        parts = [tokens[i : i + shard] for i in range(0, len(tokens), shard)]
        shards[split] = len(parts)
        for number, part in enumerate(parts):
            write(folder / split / f"shard_{number:05d}.bin", part, "u4")
    total = len(train) + len(val)
    content = {
        "total_tokens": total,
        "total_shards": sum(shards.values()),
        "train_shards": shards["train"],
        "val_shards": shards["val"],
        "tokens_per_shard": shard,
        "tokenization": "gpt2",
        "vocab_size": 50304,
        "input_files": ["a.txt", "b.txt"],
    }
    if weighted:
        content |= {"sources": {"de": ["a.txt"], "en": ["b.txt"]}, "targets": {"de": 70, "en": 30}}
        content |= {"val_fraction": 0.05, "total_tokens_written": total, "total_tokens": total + 17}
    else:
        gpt2 = {"token_kind": "gpt2", "chars": None, "base_vocab_size": 50257}
        write_json(folder / "tokenizer_state.json", state or gpt2)
    write_json(folder / "dataset_metadata.json", content | changes)
    return folder


def mypt_conversations(seed, count, tags):
    """Tokens and masks of conversations as MyPT serialised them, and where each ends. ``tags``: name -> id."""
    rng = np.random.default_rng(seed)
    tokens, mask, ends = [], [], []
    for _ in range(count):
        question, answer = (rng.integers(0, GPT2_END, rng.integers(1, 9)).tolist() for _ in range(2))
        tokens += [tags["<myPT_user>"], *question, tags["</myPT_user>"]]
        mask += [0] * (len(question) + 2)
        # The opening tag is not learned; the content, the closing tag and the end are.
        tokens += [tags["<myPT_assistant>"], *answer, tags["</myPT_assistant>"], tags["<myPT_eot>"]]
        mask += [0, *([1] * len(answer)), 1, 1]
        ends.append(len(tokens))
    return np.array(tokens), np.array(mask), ends


def mypt_sft(folder, train, val, *, shard=50, **changes):
    """``train``, ``val``: what `mypt_conversations` gives."""
    content = {"tokenization": "gpt2", "vocab_size": 50304, "val_split": 0.1, "shard_size": shard}
    for split, (tokens, mask, _) in (("train", train), ("val", val)):
        starts = range(0, len(tokens), shard)
        for number, i in enumerate(starts):
            write(folder / split / f"shard_{number:05d}.bin", tokens[i : i + shard], "u2")
            write(folder / split / f"shard_{number:05d}_mask.bin", mask[i : i + shard], "u1")
        content |= {f"num_{split}_tokens": len(tokens), f"num_{split}_shards": len(starts)}
        content[f"{split}_mask_ratio"] = float(np.mean(mask)) if len(mask) else 0.0
    content["num_conversations"] = len(train[2]) + len(val[2])
    write_json(folder / "dataset_metadata.json", content | changes)
    return folder


def mypt_episodes(folder, splits, **extra):
    """``splits``: name -> (tokens, mask, weights or None, segment ids or None, [(start, length), …])."""
    for split, (tokens, mask, weights, segments, index) in splits.items():
        write(folder / split / "tokens.bin", tokens, "u4")
        write(folder / split / "mask.bin", mask, "u1")
        if weights is not None:
            write(folder / split / "mask_weighted.bin", weights, "f4")
        if segments is not None:
            write(folder / split / "segment_ids.bin", segments, "u1")
        write(folder / split / "episodes.idx", np.array(index, np.uint64).reshape(-1), "u8")
    write_json(folder / "dataset_metadata.json", {"tokenization": "gpt2", "vocab_size": 50304} | extra)
    return folder


def nanogpt(folder, train, val):
    write(folder / "train.bin", train, "u2")
    write(folder / "val.bin", val, "u2")
    return folder


def megatron(prefix, sequences, borders, dtype="u2", *, modes=False, pointers=None):
    """``sequences``: rows of ids; ``borders``: numbers of sequences, from 0 to all."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    write(prefix.with_suffix(".bin"), np.concatenate([*sequences, []]), dtype)
    lengths = [len(row) for row in sequences]
    width = np.dtype(dtype).itemsize
    starts = np.cumsum([0, *lengths[:-1]])[: len(lengths)] * width if pointers is None else pointers
    index = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, TYPE_CODES[dtype], len(lengths), len(borders))
    index += np.array(lengths, "<i4").tobytes() + np.array(starts, "<i8").tobytes()
    index += np.array(borders, "<i8").tobytes() + (bytes(len(lengths)) if modes else b"")
    prefix.with_suffix(".idx").write_bytes(index)
    return prefix


def llmc(path, tokens, *, magic=20240520, version=1, dtype="u2", count=None):
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(tokens) if count is None else count
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.tobytes() + np.asarray(tokens).astype(f"<{dtype}").tobytes())


def companion_of(folder, split, kind):
    """The values of a companion of a dataset of ours, all shards together."""
    entries = DatasetManifest.read(folder).split(split).shards
    parts = [np.fromfile(folder / entry.companions[kind].file, COMPANIONS[kind]) for entry in entries]
    return np.concatenate(parts)


def runs_of(segments):
    """Lengths of what ``segments`` keeps apart, padding left out."""
    changes = np.flatnonzero(np.diff(segments.astype(int), prepend=-1))
    lengths = np.diff([*changes, len(segments)])
    return lengths[segments[changes] != 0].tolist()
