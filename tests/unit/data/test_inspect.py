"""A look at a dataset."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.data import lengths as module
from mypt_dist.data.inspect import inspect_dataset
from mypt_dist.data.prepare import PrepareSettings, prepare
from mypt_dist.errors import ConfigError, DataError


def make(tmp_path, texts, **settings):
    rows = "\n".join(json.dumps({"text": text}) for text in texts)
    (tmp_path / "in.jsonl").write_text(rows)
    settings = {"tokenizer": "byte", "val_fraction": 0.0, **settings}
    return prepare([tmp_path / "in.jsonl"], tmp_path / "out", PrepareSettings(**settings)).manifest


def test_lengths_and_sample_are_those_of_the_documents(tmp_path):
    manifest = make(tmp_path, ["a" * n for n in range(1, 101)], shard_tokens=33)
    report = inspect_dataset(tmp_path / "out", sample_tokens=6)
    assert report.manifest == manifest
    assert report.sample == "a<|endoftext|>aa<|endoftext|>a"
    assert report.length_rows() == [("train", (100, 1, 10, 50, 90, 100))]
    assert report.lengths["train"].histogram == ((2, 1), (4, 2), (8, 4), (16, 8), (32, 16), (64, 32), (128, 37))


def test_it_can_be_written_as_json(tmp_path):
    make(tmp_path, ["one", "two"])
    found = json.loads(json.dumps(inspect_dataset(tmp_path / "out").to_json()))
    assert found["lengths"]["train"]["max"] == 3
    assert found["manifest"]["format"] == 2
    assert found["sample"] == "one<|endoftext|>two<|endoftext|>"


def test_both_splits_are_looked_at(tmp_path):
    manifest = make(tmp_path, [f"document {i}" for i in range(50)], val_fraction=0.3)
    rows = dict(inspect_dataset(tmp_path / "out").length_rows())
    assert rows["train"][0] == manifest.splits.train.documents
    assert rows["val"][0] == manifest.splits.val.documents


@pytest.mark.parametrize("count", [0, -1])
def test_no_sample_is_shown_if_none_is_wanted(tmp_path, count):
    make(tmp_path, ["one"])
    assert inspect_dataset(tmp_path / "out", sample_tokens=count).sample == ""


@given(st.lists(st.integers(0, 6000), min_size=1, max_size=60), st.integers(1, 500))
@settings(deadline=None)
def test_percentiles_are_right_whatever_the_pieces(lengths, step):
    tokens = np.concatenate([np.append(np.zeros(n, np.uint16), np.uint16(7)) for n in lengths])
    counter = module.LengthCounter(7)
    for begin in range(0, len(tokens), step):
        counter.add(tokens[begin : begin + step])
    found = counter.summary()
    assert (found.documents, found.min, found.max) == (len(lengths), min(lengths), max(lengths))
    for share, value in ((0.1, found.p10), (0.5, found.median), (0.9, found.p90)):
        right = sorted(lengths)[max(1, int(np.ceil(share * len(lengths)))) - 1]
        assert right * 0.999 <= value <= right
    assert sum(count for _, count in found.histogram) == len(lengths)


@given(st.integers(0, 2**52))
def test_classes_of_lengths_are_narrow_and_in_order(length):
    lengths = np.array([length, length + 1])
    classes = module._class_of(lengths)
    least = module._least_of(classes)
    assert 0 <= classes[0] <= classes[1] <= classes[0] + 1 < module._CLASSES
    assert least[0] <= length <= least[0] * 1.001
    assert module._class_of(least).tolist() == classes.tolist()


def test_a_damaged_shard_is_refused(tmp_path):
    make(tmp_path, ["one"])
    path = tmp_path / "out/train/shard-00000.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"dataset.json says"):
        inspect_dataset(tmp_path / "out")


def test_no_dataset_is_a_mistake_of_the_user(tmp_path):
    with pytest.raises(ConfigError, match="mypt data prepare"):
        inspect_dataset(tmp_path)
