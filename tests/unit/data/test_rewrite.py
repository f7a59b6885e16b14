"""Datasets made of datasets: nothing is lost, nothing doubled, and everybody's parents are on record."""

import hashlib
import json

import numpy as np
import pytest
from foreign_files import companion_of, mypt_conversations, mypt_sft, nanogpt, runs_of
from hypothesis import given, settings
from hypothesis import strategies as st
from prepare_corpus import documents_of, files_of, run, text_of, tokens_of

from mypt_dist.data.companions import DocumentCounter, SegmentNumbers
from mypt_dist.data.foreign import adopt, convert
from mypt_dist.data.foreign.convert import ForeignOptions
from mypt_dist.data.foreign.tokenizer import mypt_tokenizer
from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.data.prepare import PrepareSettings
from mypt_dist.data.prepare.documents import Digest
from mypt_dist.data.rewrite.append import append, settings_of
from mypt_dist.data.rewrite.merge import merge
from mypt_dist.data.rewrite.split import cut_in_parts, hold_out
from mypt_dist.data.verify import verify_dataset
from mypt_dist.data.versions import kept_version
from mypt_dist.errors import ConfigError, DataError


def dataset(folder, seeds, **options):
    texts = folder.with_name(f"{folder.name}-texts")
    texts.mkdir()
    for seed in seeds:
        (texts / f"{seed:03d}.txt").write_text(text_of(seed, 5 + seed % 7))
    return run([texts], folder, **{"val_fraction": 0.3, "shard_tokens": 200, **options}).manifest


@pytest.fixture
def data(memory):
    dataset(memory / "data", range(30))
    return memory / "data"


def masked(memory, name, seed=1):
    tags = mypt_tokenizer("mypt-2025-12").specials
    mypt_sft(memory / f"{name}-sft", mypt_conversations(seed, 20, tags), mypt_conversations(seed + 1, 5, tags))
    convert(memory / f"{name}-sft", memory / name, ForeignOptions(tokenizer="mypt-2025-12", shard_tokens=64))
    return memory / name


def test_merged_datasets_follow_each_other_in_each_split(data, memory):
    other = dataset(memory / "other", range(50, 70))
    merged = merge([data, memory / "other"], memory / "both", shard_tokens=150)
    assert verify_dataset(memory / "both") == []
    for split in ("train", "val"):
        assert documents_of(memory / "both", split) == [
            *documents_of(data, split),
            *documents_of(memory / "other", split),
        ]
        assert merged.split(split).bytes == DatasetManifest.read(data).split(split).bytes + other.split(split).bytes
    assert [parent.fingerprint for parent in merged.lineage.parents] == [
        DatasetManifest.read(data).fingerprint,
        other.fingerprint,
    ]


def test_masks_are_merged_too(memory):
    folders = [masked(memory, "a"), masked(memory, "b", 7)]
    merge(folders, memory / "both", shard_tokens=100)
    assert verify_dataset(memory / "both") == []
    for kind in ("mask", "segments"):
        parts = [companion_of(folder, "train", kind) for folder in folders]
        np.testing.assert_array_equal(companion_of(memory / "both", "train", kind), np.concatenate(parts))


def test_what_does_not_fit_together_is_not_merged(data, memory):
    dataset(memory / "char", range(3), tokenizer="char", val_fraction=0.0)
    for folders, message in (
        ([data], "nothing to merge"),
        ([data, memory / "char"], "another tokenizer"),
        ([data, memory / "absent"], "no dataset at"),
    ):
        with pytest.raises(ConfigError, match=message):
            merge(folders, memory / "out")
    with pytest.raises(ConfigError, match="overlap"):
        merge([data, data], data / "out")
    plain = convert(nanogpt(memory / "n", [1], [2]), memory / "plain", ForeignOptions(tokenizer="mypt-2025-12"))
    assert plain.tokenizer.fingerprint == DatasetManifest.read(masked(memory, "a")).tokenizer.fingerprint
    with pytest.raises(ConfigError, match=r"has nothing beside its tokens, .*/a has mask and segments"):
        merge([memory / "a", memory / "plain"], memory / "out")
    assert not (memory / "out").exists()


@pytest.mark.parametrize(("byte", "message"), [(-1, "it holds token 357"), (-2, "it has sha256")])
def test_damage_does_not_spread(byte, message, data, memory):
    path = data / "train/shard-00000.bin"
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)
    dataset(memory / "other", range(50, 60))
    for change in (
        lambda: merge([memory / "other", data], memory / "out"),
        lambda: hold_out(data, memory / "out", 0.5),
        lambda: cut_in_parts(data, memory / "out", 2),
    ):
        with pytest.raises(DataError, match=rf"shard-00000.bin is damaged: {message}"):
            change()
        assert not list(memory.glob("out/**/dataset.json"))


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_hold_whole_documents_in_order_and_merge_to_the_same(parts, data, memory):
    made = cut_in_parts(data, memory / "parts", parts)
    places = [memory / f"parts/part-{number:03d}" for number in range(parts)]
    for split in ("train", "val"):
        assert [d for place in places for d in documents_of(place, split)] == documents_of(data, split)
    sizes = [manifest.splits.train.tokens for manifest in made]
    assert max(sizes) - min(sizes) < 2 * max(len(document.encode()) + 1 for document in documents_of(data, "train"))
    before = DatasetManifest.read(data)
    assert merge(places, memory / "again", shard_tokens=200).fingerprint == before.fingerprint
    assert made[0].settings == {"part": 0, "parts": parts}


def test_held_out_documents_are_whole_and_chosen_by_their_content(data, memory):
    made = hold_out(data, memory / "out", 0.4)
    assert verify_dataset(memory / "out") == []
    train, val = documents_of(data, "train"), documents_of(data, "val")
    kept, held = documents_of(memory / "out", "train"), documents_of(memory / "out", "val")
    assert held[: len(val)] == val, "what is held out stays held out"
    moved = held[len(val) :]
    assert moved
    assert kept == [text for text in train if text not in moved]
    merge([memory / "out", data], memory / "more")
    hold_out(memory / "more", memory / "again", 0.4)
    assert set(moved) <= set(documents_of(memory / "again", "val")), "the same documents in other company"
    assert made.lineage.made_by == "split"


def test_masks_stay_with_their_documents(memory):
    source = masked(memory, "a")
    hold_out(source, memory / "out", 0.5)
    assert verify_dataset(memory / "out") == []
    seen = {}
    for split in ("train", "val"):
        tokens, mask, segments = (
            np.array(tokens_of(memory / "out", split)),
            *(companion_of(memory / "out", split, kind) for kind in ("mask", "segments")),
        )
        ends = np.cumsum(runs_of(segments))
        for begin, end in zip([0, *ends[:-1]], ends, strict=True):
            seen[tuple(tokens[begin:end])] = mask[begin:end].tolist()
    tags = mypt_tokenizer("mypt-2025-12").specials
    for seed, count in ((1, 20), (2, 5)):
        tokens, mask, ends = mypt_conversations(seed, count, tags)
        for begin, end in zip([0, *ends[:-1]], ends, strict=True):
            assert seen.pop(tuple(tokens[begin:end])) == mask[begin:end].tolist()
    assert not seen


def test_what_cannot_be_split_is_refused(data, memory):
    for change, message in (
        (lambda: hold_out(data, memory / "out", 1.5), "--val-fraction must be above 0 and below 1, got 1.5"),
        (lambda: cut_in_parts(data, memory / "out", 1), "--parts must be 2 to 256, got 1"),
        (lambda: cut_in_parts(data, memory / "out", 200), "has too few documents to be cut in 200 parts"),
    ):
        with pytest.raises(ConfigError, match=message):
            change()
        assert not (memory / "out").exists()
    one = nanogpt(memory / "n", [1, 2, 3], [])
    convert(one, memory / "one", ForeignOptions(tokenizer="gpt2"))
    with pytest.raises(ConfigError, match=r"the hash of 0 documents leaves none for (train|val)"):
        hold_out(memory / "one", memory / "out", 0.5)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=40), st.integers(1, 7))
def test_segments_are_numbered_alike_however_they_are_cut(values, size):
    raw = np.array([value for value, _ in values], np.uint8)
    begins = np.array([is_begin for _, is_begin in values], np.bool_)
    expected, count, last = [], 0, 0
    for value, is_begin in values:
        count += value != 0 and (value != last or is_begin)
        expected.append((count - 1) % 255 + 1 if value else 0)
        last = value
    numbers, counter = SegmentNumbers(), DocumentCounter(0)
    found = []
    for i in range(0, len(raw), size):
        found += numbers.of(raw[i : i + size], begins[i : i + size]).tolist()
    assert found == expected
    assert numbers.documents == count
    for i in range(0, len(found), size):
        counter.add_segments(np.array(found[i : i + size], np.uint8))
    assert counter.documents == count


def add(folder, names, texts, **options):
    inputs = folder.parent / "more"
    inputs.mkdir(exist_ok=True)
    for name, text in zip(names, texts, strict=True):
        (inputs / name).write_text(text)
    settings = settings_of(folder).model_copy(update={"workers": 1, **options})
    return append(folder, [inputs / name for name in names], settings)


def test_appended_text_follows_and_the_old_version_stays_a_dataset(data, memory):
    before, files = DatasetManifest.read(data), files_of(data)
    documents = {split: documents_of(data, split) for split in ("train", "val")}
    texts = [text_of(seed, 12) for seed in range(100, 112)]
    after = add(data, [f"{i}.txt" for i in range(12)], texts)
    assert verify_dataset(data) == []
    for split in ("train", "val"):
        found = documents_of(data, split)
        assert found[: len(documents[split])] == documents[split]
    new = [text for split in documents for text in documents_of(data, split)[len(documents[split]) :]]
    assert sorted(new) == sorted(texts)
    assert after.settings["val_fraction"] == before.settings["val_fraction"]
    kept = kept_version(data, before.fingerprint)
    assert verify_dataset(kept) == []
    assert files_of(kept) == files
    assert after.lineage.made_by == "append"
    assert [(p.path, p.fingerprint) for p in after.lineage.parents] == [
        (str(kept.relative_to(data)), before.fingerprint)
    ]


def test_versions_of_versions_are_kept_and_the_folder_can_be_moved(data, memory):
    fingerprints = [DatasetManifest.read(data).fingerprint]
    for number in range(3):
        fingerprints.append(add(data, [f"{number}.txt"], [text_of(200 + number, 60)]).fingerprint)
    moved = data.rename(memory / "moved")
    for fingerprint in fingerprints[:-1]:
        assert verify_dataset(kept_version(moved, fingerprint)) == []
    assert verify_dataset(moved) == []
    assert len(DatasetManifest.read(moved).lineage.ancestors) == 3
    (moved / "versions/stray.txt").write_text("x")
    assert verify_dataset(moved) == [f"{moved}/versions/stray.txt does not belong to the dataset"]


def test_a_single_document_is_added_whole(data):
    before = {split: documents_of(data, split) for split in ("train", "val")}
    text = text_of(77, 300)
    after = add(data, ["a.txt"], [text])
    assert after.settings["split"] == "hash"
    new = [found for split in before for found in documents_of(data, split)[len(before[split]) :]]
    assert new == [text], "no part of it is held out for want of others"


def test_the_alphabet_of_a_char_dataset_stays(memory):
    dataset(memory / "data", range(10), tokenizer="char")
    before = DatasetManifest.read(memory / "data")
    after = add(memory / "data", ["a.txt"], ["Ω unknown " * 5], val_fraction=0.0)
    assert after.tokenizer.fingerprint == before.tokenizer.fingerprint
    assert "<|unk|>" in documents_of(memory / "data", "train")[-1]


def test_a_failed_or_killed_append_leaves_the_dataset_as_it_was(data, memory, monkeypatch):
    before, files = DatasetManifest.read(data), files_of(data)
    with pytest.raises(ConfigError, match="no such file"):
        append(data, [memory / "absent.txt"], PrepareSettings(tokenizer="byte"))
    assert files_of(data) == files

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # After all shards were moved, before the manifest was.
        patch.setattr("mypt_dist.data.rewrite.append.write_new", die)
        with pytest.raises(KeyboardInterrupt):
            add(data, ["a.txt", "b.txt"], [text_of(1, 300), text_of(2, 300)], val_fraction=0.0)
    assert DatasetManifest.read(data) == before
    assert {name: files_of(data)[name] for name in files} == files
    after = add(data, ["c.txt"], [text_of(3, 30)], val_fraction=0.0)
    assert verify_dataset(data) == [], "what the killed one left is gone"
    assert after.splits.train.documents == before.splits.train.documents + 1


def test_preparing_anew_removes_versions(data, memory):
    add(data, ["a.txt"], [text_of(5, 30)])
    run([memory / "data-texts"], data, overwrite=True)
    assert verify_dataset(data) == []
    assert not (data / "versions").exists()


def test_what_cannot_grow_is_refused(data, memory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(memory / "cache"))
    adopt(nanogpt(memory / "n", [1, 2], [3]), ForeignOptions(tokenizer="gpt2"))
    before = DatasetManifest.read(data)
    add(data, ["a.txt"], [text_of(5, 30)])
    for folder, message in (
        (memory / "n", "it was written by another program"),
        (masked(memory, "a"), "text has no mask and no segments"),
        (kept_version(data, before.fingerprint), "the earlier version of a dataset, which stays"),
    ):
        with pytest.raises(ConfigError, match=message):
            append(folder, ["stdlib"], PrepareSettings(tokenizer="byte"))


def test_an_older_manifest_is_read_hashed_and_spelled_as_it_was(data):
    raw = json.loads((data / "dataset.json").read_text())
    new = DatasetManifest.read(data)
    del raw["lineage"], raw["sha256"]
    raw["format"] = 1
    for source in raw["sources"]:
        del source["sha256"]
    text = json.dumps(raw, sort_keys=True, separators=(",", ":"))
    old = {**raw, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    (data / "dataset.json").write_text(json.dumps(old, indent=2) + "\n")
    manifest = DatasetManifest.read(data)
    assert manifest.fingerprint == new.fingerprint
    assert verify_dataset(data) == []
    assert add(data, ["a.txt"], [text_of(5, 30)]).lineage.ancestors[manifest.fingerprint].tools == {}


def test_the_source_hash_is_of_the_documents_in_order(memory):
    texts = [f"text {number}" for number in range(4)]
    (memory / "in").mkdir()
    for number, text in enumerate(texts):
        (memory / f"in/{number}.txt").write_text(text)
    manifest = run([memory / "in"], memory / "out").manifest
    expected = hashlib.sha256()
    for text in texts:
        digest = Digest()
        digest.update(text)
        expected.update(digest.digest())
    assert manifest.sources[0].sha256 == expected.hexdigest()
