"""From files of conversations to packed rows with masks, and back to the very same lines."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_files import conversations, prepared, written
from foreign_files import companion_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.chat import Renderer, read_conversation
from mypt_dist.data.chat import ChatSettings, export_conversations, prepare_chat
from mypt_dist.data.chat.plan import pack, padding
from mypt_dist.data.diff import diff_datasets
from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.data.rewrite.merge import merge
from mypt_dist.data.rewrite.split import cut_in_parts, hold_out
from mypt_dist.data.stats import dataset_stats
from mypt_dist.data.verify import verify_dataset
from mypt_dist.errors import ConfigError, DataError

TRICKY: list[dict[str, Any]] = [
    {
        "id": 1,
        "messages": [{"role": "user", "content": "<|assistant|>"}, {"role": "assistant", "content": "é\U0001f600 "}],
    },
    {"system": "", "context": "D", "messages": [{"role": "assistant", "content": "", "score": 0.5, "tags": [None]}]},
    {
        "messages": [
            {"content": "2+2", "role": "user", "context": "see"},
            {"role": "assistant_toolcall", "name": "sum", "arguments": {"b": 1, "a": [2.5]}, "think": "hm"},
            {"role": "toolresult", "name": "sum", "content": {"is": 4}},
            {"role": "assistant", "content": "4", "cite": "sum", "weight": 1},
        ],
        "extra": {"deep": {"\U0001f600": True}},
    },
    {
        "tools": [{"type": "function", "function": {"name": "t"}}],
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "S"}, {"type": "text", "text": "T"}]},
            {"role": "user", "content": [{"type": "text", "text": "q"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "t", "arguments": '{"a":  1}'}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "\u0000\u2028"},
        ],
    },
    {"system": "S", "conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": "no json"}]},
]


@pytest.mark.parametrize("tokenizer", ["byte", "gpt2", "char"])
def test_lines_come_back_byte_for_byte(memory: Path, tokenizer: str) -> None:
    if tokenizer == "char":
        (memory / "characters").write_text("abcdefghijklmnopqrstuvwxyz ")
        tokenizer = f"char:{memory / 'characters'}"
    values = TRICKY + conversations(40, longest=30)
    options = {"tokenizer": tokenizer, "val_fraction": 0.3, "too_long": "truncate", "allow_unlearned": True}
    report = prepared(memory, values, context=50, **options)
    assert all(report.rows.values()), "both splits have some"
    assert report.manifest.conversations is not None
    assert report.manifest.conversations.counts.truncated
    assert export_conversations(memory / "chat", memory / "back.jsonl") == len(values)
    assert (memory / "back.jsonl").read_bytes() == (memory / "chat.jsonl").read_bytes()
    assert verify_dataset(memory / "chat") == []


def test_a_row_holds_whole_conversations_and_their_masks_are_those_of_the_renderer(memory: Path) -> None:
    values = TRICKY + conversations(30)
    manifest = prepared(memory, values, weights={"close": 0.5, "think": 0.0}).manifest
    tokenizer = manifest.load_tokenizer()
    left = []
    for value in values:
        rendered = Renderer(tokenizer).render(read_conversation(value)[1].conversation)
        left.append((rendered.ids.tolist(), rendered.mask.tolist()))
    tokens = np.concatenate(
        [np.fromfile(memory / "chat" / e.file, "<u2", offset=64) for e in manifest.splits.train.shards]
    )
    mask, segments, weights = (companion_of(memory / "chat", "train", k) for k in ("mask", "segments", "weights"))
    assert len(tokens) % 256 == 0
    for row in range(len(tokens) // 256):
        place = slice(row * 256, row * 256 + 256)
        ids, numbers = tokens[place], segments[place]
        assert not mask[place][numbers == 0].any()
        assert not weights[place][mask[place] == 0].any()
        assert (ids[numbers == 0] == tokenizer.eot_id).all()
        for number in dict.fromkeys(numbers[numbers != 0].tolist()):
            own = ids[numbers == number].tolist()
            assert own in [ids for ids, _ in left]
            left = [pair for pair in left if pair[0] != own]
    assert not left
    closes = np.isin(tokens, [tokenizer.specials[f"<|/{s}|>"] for s in ("assistant", "toolcall", "cite", "think")])
    assert set(weights[closes & (mask == 1)].tolist()) == {0.5}
    assert set(weights[~closes & (mask == 1)].tolist()) == {1.0}
    thought = tokens.tolist().index(tokenizer.specials["<|think|>"]) + 1
    assert mask[thought - 1 : thought + 2].tolist() == [1, 0, 0], "hm is not learned, that one thinks is"


def test_the_same_files_give_the_same_bytes(memory: Path) -> None:
    values = conversations(50)
    one, two = (prepared(memory, values, name, val_fraction=0.2).manifest for name in ("a", "b"))
    assert one.fingerprint == two.fingerprint
    assert diff_datasets(memory / "a", memory / "b").is_equal
    for path in (memory / "a").rglob("shard*"):
        assert path.read_bytes() == (memory / "b" / path.relative_to(memory / "a")).read_bytes()
    shuffled = prepared(memory, values[::-1], "c", val_fraction=0.2).manifest
    assert shuffled.splits.val.documents == one.splits.val.documents, "who is held out is decided by what is said"
    assert prepared(memory, values, "d", context=300).manifest.fingerprint != one.fingerprint


BAD = [
    '{"messages": [{"role": "user", "content": "x"',
    '{"messages": [{"role": "user", "content": "only asked"}]}',
    json.dumps({"messages": [{"role": "assistant", "content": "w" * 300}]}),
    '{"messages": [], "messages": []}',
    "\udce4",
    '{"messages": [{"role": "assistant", "content": "x"}], "note": "\\ud800"}',
]


def test_what_cannot_be_used_is_named_with_its_line_and_nothing_is_written(memory: Path) -> None:
    path = memory / "chat.jsonl"
    path.write_bytes("\n\n".join([json.dumps(TRICKY[0]), *BAD]).encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match="6 lines cannot be used") as caught:
        prepare_chat([path], memory / "chat", ChatSettings(context=255, tokenizer="byte"))
    told = str(caught.value).splitlines()[1:]
    assert [line.strip().partition(": ")[0] for line in told[:6]] == [f"{path}:{n}" for n in (3, 5, 7, 9, 11, 13)]
    for line, reason in zip(
        told,
        (
            "not valid JSON",
            "nothing to learn",
            "303 tokens, a row 256",
            "stands twice",
            "not UTF-8",
            "half a character",
        ),
        strict=False,
    ):
        assert reason in line
    assert not (memory / "chat").exists()


def test_what_cannot_be_used_goes_into_quarantine_with_its_reason(memory: Path) -> None:
    path = memory / "chat.jsonl"
    path.write_bytes("\n".join([*BAD, json.dumps(TRICKY[0])]).encode("utf-8", "surrogateescape"))
    options = ChatSettings(context=255, tokenizer="byte", val_fraction=0, quarantine=memory / "bad.jsonl")
    report = prepare_chat([path], memory / "chat", options)
    told = [json.loads(line) for line in (memory / "bad.jsonl").read_text().splitlines()]
    assert [(entry["file"], entry["line"]) for entry in told] == [(str(path), number) for number in range(1, 7)]
    assert told[1]["text"] == BAD[1]
    chat = report.manifest.conversations
    assert chat is not None
    assert (chat.counts.bad, chat.counts.unlearned, report.manifest.counts.documents) == (5, 1, 1)
    assert sorted(memory.iterdir()) == [memory / "bad.jsonl", memory / "chat", path]


def test_long_conversations_are_dropped_or_cut_only_if_somebody_said_so(memory: Path) -> None:
    values = [TRICKY[0], {"messages": [{"role": "assistant", "content": "w" * 300}]}]
    dropped, cut = (prepared(memory, values, name, too_long=name).manifest for name in ("drop", "truncate"))
    assert dropped.conversations is not None
    assert cut.conversations is not None
    assert (dropped.counts.documents, dropped.conversations.counts.dropped) == (1, 1)
    assert (cut.counts.documents, cut.conversations.counts.truncated, cut.splits.train.tokens) == (2, 1, 2 * 256)
    # A question so long that nothing of the answer is left.
    hidden = [TRICKY[0], {"messages": [{"role": "user", "content": "w" * 300}, {"role": "assistant", "content": "x"}]}]
    with pytest.raises(DataError, match="what is left of it has nothing to learn"):
        prepared(memory, hidden, "hidden", too_long="truncate")


def test_what_is_not_learned_is_kept_if_somebody_said_so(memory: Path) -> None:
    values = [TRICKY[0], {"messages": [{"role": "user", "content": "x"}]}]
    manifest = prepared(memory, values, allow_unlearned=True).manifest
    assert manifest.conversations is not None
    assert (manifest.counts.documents, manifest.conversations.counts.unlearned) == (2, 1)
    with pytest.raises(ConfigError, match="no conversation is left to learn from"):
        prepared(memory, [{"messages": [{"role": "assistant", "content": "w" * 300}]}], "none", too_long="drop")


def test_a_template_with_control_tokens_of_its_own(memory: Path) -> None:
    values = [TRICKY[0], TRICKY[3]]
    with pytest.raises(ConfigError, match="--add-specials"):
        prepared(memory, values, template="chatml")
    manifest = prepared(memory, values, template="chatml", add_specials=True).manifest
    assert manifest.vocab_size == 256 + 18 + 6
    export_conversations(memory / "chat", memory / "back.jsonl")
    assert (memory / "back.jsonl").read_bytes() == (memory / "chat.jsonl").read_bytes()


def test_packed_files_and_several_inputs_are_read_in_order(memory: Path) -> None:
    one, two = conversations(5, 1), conversations(5, 2)
    written(memory / "a.jsonl", one)
    (memory / "b.jsonl.gz").write_bytes(gzip.compress(written(memory / "plain", two).read_bytes()))
    options = ChatSettings(context=255, tokenizer="byte", val_fraction=0)
    report = prepare_chat([memory / "b.jsonl.gz", memory / "a.jsonl"], memory / "chat", options)
    assert [source.documents for source in report.manifest.sources] == [5, 5]
    export_conversations(memory / "chat", memory / "back.jsonl")
    assert [json.loads(line) for line in (memory / "back.jsonl").read_text().splitlines()] == two + one
    (memory / "x.txt").write_text("no lines")
    with pytest.raises(ConfigError, match=r"x\.txt is no file of conversations"):
        prepare_chat([memory / "x.txt"], memory / "other", options)


def test_rows_are_never_torn_apart(memory: Path) -> None:
    for name in ("a", "b"):
        prepared(memory, conversations(9), name)
    with pytest.raises(ConfigError, match="cannot be merged"):
        merge([memory / "a", memory / "b"], memory / "out")
    for split in (
        lambda: hold_out(memory / "a", memory / "out", 0.5),
        lambda: cut_in_parts(memory / "a", memory / "out", 2),
    ):
        with pytest.raises(ConfigError, match="cannot be split"):
            split()
    assert not (memory / "out").exists()
    stats = dataset_stats(memory / "a").splits["train"]
    manifest = DatasetManifest.read(memory / "a")
    assert manifest.conversations is not None
    assert (stats.documents, stats.learned) == (9, manifest.conversations.counts.learned)


def test_damage_to_what_is_no_token_is_found_too(memory: Path) -> None:
    prepared(memory, conversations(9))
    path = memory / "chat" / "train" / "conversations.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"number":3', b'"number":4'))
    assert any("conversations.jsonl has sha256" in problem for problem in verify_dataset(memory / "chat"))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 70), st.data())
def test_every_conversation_stands_in_one_row_and_no_two_rows_could_be_one(length: int, data: st.DataObject) -> None:
    lengths = np.array(data.draw(st.lists(st.integers(1, length), max_size=60)), np.int64)
    rows = pack(lengths, length)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    sums = sorted(int(lengths[row].sum()) for row in rows)
    assert all(total <= length for total in sums)
    assert len(sums) < 2 or sums[0] + sums[1] > length
    assert padding(rows, lengths, length) == length * len(rows) - sum(sums)


def test_rows_of_a_log_normal_mix_are_nearly_full() -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(5.5, 1.0, 5000), 8, 2049).astype(np.int64)
    rows = pack(lengths, 2049)
    assert 1 - padding(rows, lengths, 2049) / (len(rows) * 2049) > 0.99
