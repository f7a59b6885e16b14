"""Looks at datasets: statistics, differences, lineage."""

import json
from collections import Counter

import numpy as np
import pytest
from foreign_files import megatron, mypt_conversations, mypt_sft, nanogpt
from prepare_corpus import run, text_of, tokens_of

from mypt_dist.data import lineage
from mypt_dist.data.diff import diff_datasets
from mypt_dist.data.entries import Ancestor, Lineage, Parent
from mypt_dist.data.foreign import convert
from mypt_dist.data.foreign.convert import ForeignOptions
from mypt_dist.data.foreign.tokenizer import mypt_tokenizer
from mypt_dist.data.inspect import inspect_dataset
from mypt_dist.data.lineage import lineage_tree
from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.data.rewrite.merge import merge
from mypt_dist.data.rewrite.split import cut_in_parts
from mypt_dist.data.stats import dataset_stats


def dataset(folder, texts, **options):
    source = folder.with_name(f"{folder.name}-texts")
    source.mkdir()
    for number, text in enumerate(texts):
        (source / f"{number:03d}.txt").write_text(text)
    return run([source], folder, **{"val_fraction": 0.2, **options}).manifest


@pytest.fixture
def data(memory):
    dataset(memory / "data", [text_of(seed, 3 + seed % 11) for seed in range(40)], shard_tokens=300)
    return memory / "data"


def test_statistics_count_every_token(data):
    found = dataset_stats(data, frequent=5)
    tokens = [*tokens_of(data, "train"), *tokens_of(data, "val")]
    counts = Counter(tokens)
    assert [(token.id, token.count) for token in found.frequent] == sorted(
        counts.items(), key=lambda pair: (-pair[1], pair[0])
    )[:5]
    assert found.distinct == len(counts)
    assert found.splits["train"].tokens == found.splits["train"].learned == len(tokens_of(data, "train"))
    assert found.frequent[0].text == bytes([found.frequent[0].id]).decode()
    inspected = inspect_dataset(data).lengths
    assert {name: split.lengths for name, split in found.splits.items()} == inspected
    assert json.loads(json.dumps(found.to_json()))["splits"]["val"]["documents"] == found.splits["val"].documents


def test_statistics_of_masked_data_say_how_much_is_learned(memory):
    tags = mypt_tokenizer("mypt-2025-12").specials
    train = mypt_conversations(1, 15, tags)
    mypt_sft(memory / "sft", train, mypt_conversations(2, 3, tags))
    convert(memory / "sft", memory / "ours", ForeignOptions(tokenizer="mypt-2025-12"))
    found = dataset_stats(memory / "ours").splits["train"]
    assert found.learned == train[1].sum()
    assert (found.lengths.documents, found.lengths.max) == (15, np.diff([0, *train[2]]).max())


def test_a_dataset_without_documents_has_no_lengths(memory):
    convert(nanogpt(memory / "n", [5, 5, 6], [7]), memory / "ours", ForeignOptions(tokenizer="gpt2"))
    found = dataset_stats(memory / "ours", frequent=1)
    assert found.splits["train"].lengths is None
    assert [(token.id, token.count) for token in found.frequent] == [(5, 2)]


def test_equal_datasets_do_not_differ(data):
    found = diff_datasets(data, data)
    assert found.is_equal
    assert not found.facts
    assert not found.tokens


@pytest.mark.parametrize("position", [0, 1, 299, 300, 301, 650])
def test_the_first_different_token_is_found(position, memory):
    tokens = np.arange(900) % 256
    other = tokens.copy()
    other[position:] = 255 - other[position:]
    for name, values in (("a", tokens), ("b", other)):
        nanogpt(memory / f"{name}-n", values, [1])
        options = ForeignOptions(tokenizer="byte", shard_tokens=300 if name == "a" else 170)
        convert(memory / f"{name}-n", memory / name, options)
    (found,) = diff_datasets(memory / "a", memory / "b").tokens
    assert (found.split, found.position) == ("train", position)
    assert (found.left_id, found.right_id) == (tokens[position], other[position])
    around = slice(max(0, position - 12), position + 12)
    assert found.left == bytes(tokens[around].tolist()).decode(errors="replace")


def test_shards_that_are_the_same_are_not_read(memory):
    for name, values in (("a", [1] * 300 + [2]), ("b", [1] * 300)):
        convert(
            nanogpt(memory / f"{name}-n", values, []), memory / name, ForeignOptions(tokenizer="byte", shard_tokens=100)
        )
    for name in ("a", "b"):
        path = memory / name / "train/shard-00000.bin"
        path.write_bytes(bytes(path.stat().st_size))
    found = diff_datasets(memory / "a", memory / "b")
    assert found.shards["train"][:2] == (4, 3)
    assert found.tokens[0].position == 300
    assert (found.tokens[0].left_id, found.tokens[0].right_id) == (2, None)
    assert not found.is_equal


def test_settings_and_tokenizers_are_compared(data, memory):
    other = dataset(memory / "other", [text_of(1)], tokenizer="char", val_fraction=0.0)
    found = diff_datasets(data, memory / "other")
    assert found.facts["tokenizer.kind"] == ("byte", "char")
    assert found.facts["settings.val_fraction"] == (0.2, 0.0)
    assert found.facts["train.documents"][1] == other.splits.train.documents
    assert json.loads(json.dumps(found.to_json()))["equal"] is False


def test_the_tree_of_a_lineage_holds_everything_it_was_made_of(data, memory):
    convert(megatron(memory / "m", [[1, 2], [3]], [0, 1, 2]), memory / "mega", ForeignOptions(tokenizer="byte"))
    cut_in_parts(data, memory / "parts", 2)
    merge([memory / "parts/part-000", memory / "mega"], memory / "both")
    merge([memory / "both", memory / "parts/part-001", memory / "parts/part-000"], memory / "all")
    tree = lineage_tree(memory / "all", DatasetManifest.read(memory / "all"))
    assert tree.made_by == "merge"
    both, second, first = tree.parents
    assert [both.made_by, second.made_by, first.made_by] == ["merge", "split", "split"]
    part, mega = both.parents
    assert part.settings == {"part": 0, "parts": 2}
    (root,) = part.parents
    assert (root.made_by, root.path, root.fingerprint) == (
        "prepare",
        str(data),
        DatasetManifest.read(data).fingerprint,
    )
    assert root.sources[0].documents == 40
    assert mega.sources[0].path == str(memory / "m")
    assert first.is_cut, "it stands there already, with its parents"
    assert json.loads(json.dumps(tree.to_json()))["parents"][0]["parents"][1]["made_by"] == "convert"


def test_a_lineage_that_names_itself_ends(data):
    manifest = DatasetManifest.read(data)
    own = Parent(path="here", fingerprint="a" * 64)
    circle = {own.fingerprint: Ancestor(made_by="merge", tools={}, settings={}, sources=(), parents=(own, own))}
    forged = manifest.with_origin(Lineage(made_by="merge", tools={}, parents=(own,), ancestors=circle))
    assert json.dumps(lineage_tree(data, forged).to_json())


def test_a_lineage_of_a_thousand_appends_is_cut_where_it_is_too_deep(data):
    manifest = DatasetManifest.read(data)
    chain = [Parent(path="x", fingerprint=f"{number:064x}") for number in range(1000)]
    ancestors = {
        parent.fingerprint: Ancestor(made_by="append", tools={}, settings={}, sources=(), parents=chain[i + 1 : i + 2])
        for i, parent in enumerate(chain)
    }
    deep = manifest.with_origin(Lineage(made_by="append", tools={}, parents=(chain[0],), ancestors=ancestors))
    node, depth = lineage_tree(data, deep), 0
    while node.parents:
        node, depth = node.parents[0], depth + 1
    assert depth == lineage.MAX_DEPTH
    assert node.is_cut


def test_a_checkpoint_is_told_inputs_and_parents(data, memory):
    cut_in_parts(data, memory / "parts", 2)
    found = lineage.summary(DatasetManifest.read(memory / "parts/part-001"))
    original = DatasetManifest.read(data)
    assert found["made_by"] == "split"
    assert found["parents"] == [original.fingerprint]
    assert found["inputs"] == [original.sources[0].sha256]
    assert set(found["tools"]) == {"mypt-dist", "python", "numpy", "tiktoken"}
