"""Text files to a dataset, as a whole."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard
from prepare_corpus import documents_of, files_of, held_out, run, text_of, tokens_of, write_corpus

from mypt_dist.data.prepare import reading, work
from mypt_dist.data.verify import verify_dataset
from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers import Gpt2Tokenizer


@pytest.mark.parametrize("kind", ["gpt2", "byte", "char"])
def test_every_document_comes_back_in_order_in_its_split(tmp_path, kind):
    texts = write_corpus(tmp_path / "in")
    report = run([tmp_path / "in"], tmp_path / "out", tokenizer=kind, val_fraction=0.2, shard_tokens=1000)
    for split, is_val in (("train", False), ("val", True)):
        expected = [text for text in texts if held_out(text, 0.2) == is_val]
        assert documents_of(tmp_path / "out", split) == expected
        entry = report.manifest.split(split)
        assert entry.documents == len(expected)
        assert entry.bytes == sum(len(text.encode()) for text in expected)
        assert entry.tokens == len(tokens_of(tmp_path / "out", split))
        assert [shard.tokens for shard in entry.shards[:-1]] == [1000] * (len(entry.shards) - 1)
    assert report.manifest.settings["split"] == "hash"
    assert verify_dataset(tmp_path / "out") == []
    assert [source.documents for source in report.manifest.sources] == [len(texts)]
    assert report.manifest.counts.documents == len(texts)
    assert report.manifest.counts.files == 64


def test_tokens_are_those_of_the_tokenizer_with_an_end_of_text_after_each_document(tmp_path):
    (tmp_path / "a.txt").write_text("Hello world, <|endoftext|>")
    (tmp_path / "b.txt").write_text("And again.")
    report = run([tmp_path], tmp_path / "out", tokenizer="gpt2")
    gpt2 = Gpt2Tokenizer()
    expected = [*gpt2.encode("Hello world, <|endoftext|>"), 50256, *gpt2.encode("And again."), 50256]
    assert tokens_of(tmp_path / "out", "train") == expected
    assert tokens_of(tmp_path / "out", "train").count(50256) == 2
    assert report.manifest.dtype == "uint16"
    assert report.manifest.splits.val.shards == ()


def test_the_number_of_threads_changes_no_byte(tmp_path):
    write_corpus(tmp_path / "in")
    for workers in (1, 2, 7):
        run(
            [tmp_path / "in"],
            tmp_path / f"out{workers}",
            workers=workers,
            val_fraction=0.1,
            shard_tokens=999,
            dedup=True,
        )
    assert files_of(tmp_path / "out1") == files_of(tmp_path / "out2") == files_of(tmp_path / "out7")


def test_adding_files_moves_no_document_between_the_splits(tmp_path):
    write_corpus(tmp_path / "in", documents=40)
    run([tmp_path / "in"], tmp_path / "before", val_fraction=0.2)
    for i in range(30):
        (tmp_path / "in" / f"0-new-{i}.txt").write_text(text_of(f"new {i}"))
    run([tmp_path / "in"], tmp_path / "after", val_fraction=0.2)
    for split in ("train", "val"):
        assert set(documents_of(tmp_path / "before", split)) <= set(documents_of(tmp_path / "after", split))


def test_a_vocabulary_of_more_than_65536_ids_is_written_in_four_bytes(tmp_path):
    text = "".join(map(chr, [*range(0x20, 0xD800), *range(0xE000, 0x14000)]))
    (tmp_path / "a.txt").write_text(text, newline="")
    report = run([tmp_path / "a.txt"], tmp_path / "out", tokenizer="char")
    assert report.manifest.dtype == "uint32"
    assert documents_of(tmp_path / "out", "train") == [text]


def test_identical_documents_are_kept_unless_told_otherwise(tmp_path):
    rows = [{"text": "one"}, {"text": "two"}, {"text": "one"}, {"text": "two "}, {"text": "one"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run([tmp_path / "a.jsonl"], tmp_path / "all")
    assert documents_of(tmp_path / "all", "train") == ["one", "two", "one", "two ", "one"]
    report = run([tmp_path / "a.jsonl"], tmp_path / "first", dedup=True)
    assert documents_of(tmp_path / "first", "train") == ["one", "two", "two "]
    assert report.manifest.counts.duplicates == 2


def test_a_large_duplicate_is_left_out_whole(tmp_path):
    text = text_of("large", 60_000)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(text, newline="")
    (tmp_path / "c.txt").write_text("small")
    report = run([tmp_path], tmp_path / "out", dedup=True)
    assert documents_of(tmp_path / "out", "train") == [text, "small"]
    assert report.examples["duplicates"] == [str(tmp_path / "b.txt")]


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["gpt2", "char"])
def test_a_large_document_has_the_tokens_of_a_small_one(tmp_path, monkeypatch, kind, packing):
    text = "\ufeff" + text_of("large", 4000)
    pack = {"": lambda data: data, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[packing]
    path = tmp_path / f"a.txt{packing}"
    path.write_bytes(pack(text.encode()))
    run([path], tmp_path / "small", tokenizer=kind)
    for module in (work, reading):
        monkeypatch.setattr(module, "WHOLE_BYTES", 1000)
    monkeypatch.setattr("mypt_dist.tokenizers.chunks.Chunker.__init__.__defaults__", (777,))
    run([path], tmp_path / "large", tokenizer=kind)
    assert documents_of(tmp_path / "large", "train") == [text[1:]]
    assert files_of(tmp_path / "large") == files_of(tmp_path / "small")


def test_long_lines_have_the_tokens_of_short_ones(tmp_path, monkeypatch):
    texts = [text_of(i, 10 * i + 5) for i in range(60)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts))
    run([path], tmp_path / "small", tokenizer="gpt2")
    for module in (work, reading):
        monkeypatch.setattr(module, "WHOLE_BYTES", 1500)
    for block in (1, 100, 1499):
        monkeypatch.setattr("mypt_dist.data.prepare.streams.TextBytes.read.__defaults__", (block,))
        run([path], tmp_path / f"large{block}", tokenizer="gpt2")
        assert files_of(tmp_path / f"large{block}") == files_of(tmp_path / "small")
    assert documents_of(tmp_path / "small", "train") == texts


def test_lines_too_long_for_bounded_memory_are_counted_whatever_the_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_LINE_BYTES", 400)
    rows = ["a" * 380, "b" * 500, "c" * 100, "é" * 170, "é" * 90, "😀" * 30, "😀" * 20, "d" * 9000, "e" * 380]
    lines = [json.dumps({"text": row}, ensure_ascii=False) for row in rows]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, json.dumps({"text": "😀" * 9})]))
    expected = ["a" * 380, "c" * 100, "é" * 90, "😀" * 20, "e" * 380]
    for block in (7, 64, 99):
        monkeypatch.setattr("mypt_dist.data.prepare.streams.TextBytes.read.__defaults__", (block,))
        report = run([tmp_path / "a.jsonl"], tmp_path / f"out{block}")
        assert documents_of(tmp_path / f"out{block}", "train") == expected
        assert report.manifest.counts.oversized == 5
        assert [Path(name).name for name in report.examples["oversized"]] == [f"a.jsonl:{n}" for n in (2, 4, 6, 8, 10)]


def test_what_cannot_be_used_is_counted_and_named(tmp_path, caplog):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "bad.txt").write_bytes(b"caf\xe9")
    (folder / "big-bad.txt").write_bytes(b"word " * 100_000 + b"\xff")
    (folder / "big-blank.txt").write_bytes(b" \n" * 200_000)
    (folder / "blank.md").write_text(" \n")
    (folder / "empty.jsonl").write_text("")
    (folder / "gone.txt").symlink_to("nowhere")
    (folder / "good.txt").write_text("good")
    (folder / "lines.jsonl").write_bytes(b'{"text": "line"}\n{"nope": 1}\n{"text": "\xe9"}\nnot json\n{"text": ""}')
    (folder / "torn.jsonl.gz").write_bytes(gzip.compress(b'{"text": "whole"}\n' * 3)[:-6])
    (folder / "torn.txt.zst").write_bytes(zstandard.ZstdCompressor().compress(b"text " * 100)[:-4])
    report = run([folder], tmp_path / "out")
    assert report.manifest.counts.model_dump() == {
        "files": 10,
        "documents": 2,
        "empty": 4,
        "duplicates": 0,
        "bad_utf8": 3,
        "bad_json": 2,
        "oversized": 0,
        "unreadable_files": 3,
    }
    assert documents_of(tmp_path / "out", "train") == ["good", "line"]
    examples = {kind: [Path(name).name for name in names] for kind, names in report.examples.items()}
    assert examples["bad_utf8"] == ["bad.txt", "big-bad.txt", "lines.jsonl:3"]
    assert examples["bad_json"] == ["lines.jsonl:2", "lines.jsonl:4"]
    assert examples["empty"] == ["big-blank.txt", "blank.md", "empty.jsonl", "lines.jsonl:5"]
    assert examples["unreadable_files"][0] == "gone.txt: No such file or directory"
    assert "3 bad utf8: " in caplog.text
    assert "gone.txt: No such file or directory" in caplog.text


def test_bad_utf8_can_be_replaced(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "b.txt").write_bytes(b"word " * 100_000 + b"\xff")
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "\xe9!"}')
    (tmp_path / "d.jsonl").write_bytes(b'{"text": "' + b"long " * 100_000 + b'\xe9"}')
    report = run([tmp_path], tmp_path / "out", bad_utf8="replace")
    assert documents_of(tmp_path / "out", "train") == [
        "caf\ufffd",
        "word " * 100_000 + "\ufffd",
        "\ufffd!",
        "long " * 100_000 + "\ufffd",
    ]
    assert report.manifest.counts.bad_utf8 == 4
    assert report.manifest.counts.documents == 4


def test_a_long_line_that_cannot_be_used_is_counted(tmp_path):
    lines = ['{"nope": "' + "long " * 100_000 + '"}', '{"text": "good"}', '{"text": "' + " " * 500_000 + '"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    report = run([tmp_path / "a.jsonl"], tmp_path / "out")
    assert documents_of(tmp_path / "out", "train") == ["good"]
    assert report.examples == {"bad_json": [f"{tmp_path}/a.jsonl:1"], "empty": [f"{tmp_path}/a.jsonl:3"]}


def test_only_the_first_names_are_kept(tmp_path, caplog):
    (tmp_path / "a.jsonl").write_text("bad\n" * 2000 + '{"text": "x"}')
    report = run([tmp_path / "a.jsonl"], tmp_path / "out")
    assert report.manifest.counts.bad_json == 2000
    assert len(report.examples["bad_json"]) == 5
    assert "and 1,995 more" in caplog.text


def test_names_that_are_no_text_can_be_reported(tmp_path):
    folder = tmp_path / "in\udcff"
    folder.mkdir()
    (folder / "bad\udcfe.txt").write_bytes(b"\xff")
    (folder / "good.txt").write_text("good")
    report = run([folder], tmp_path / "out")
    assert report.examples["bad_utf8"][0].endswith("in\ufffd/bad\ufffd.txt")
    assert report.manifest.sources[0].path.endswith("in\ufffd")
    assert verify_dataset(tmp_path / "out") == []


def test_progress_counts_bytes_on_disk_and_ends_at_the_total(tmp_path):
    write_corpus(tmp_path / "in", documents=5)
    (tmp_path / "in/big.txt").write_text(text_of("big", 50_000))
    (tmp_path / "in/bad.txt").write_bytes(b"word " * 100_000 + b"\xff")
    (tmp_path / "in/torn.txt.gz").write_bytes(gzip.compress(text_of("torn").encode())[:-9])
    size = sum(path.stat().st_size for path in (tmp_path / "in").iterdir())
    for kind, passes in (("byte", 1), ("char", 2)):
        seen = []
        run(
            [tmp_path / "in"],
            tmp_path / kind,
            lambda done, total, seen=seen: seen.append((done, total)),
            tokenizer=kind,
        )
        assert seen[-1] == (passes * size, passes * size)
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_sources_are_the_inputs_as_they_were_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "in", documents=3)
    report = run(["in/*.txt", Path("in/a.jsonl")], tmp_path / "out")
    assert [(source.path, source.files, source.documents) for source in report.manifest.sources] == [
        ("in/*.txt", 3, 3),
        ("in/a.jsonl", 1, 3),
    ]
    total = sum(source.bytes for source in report.manifest.sources)
    assert total == report.manifest.splits.train.bytes


@pytest.mark.parametrize("kind", ["byte", "char"])
def test_a_corpus_without_a_document_is_refused_and_leaves_nothing(tmp_path, kind):
    (tmp_path / "a.txt").write_text(" ")
    (tmp_path / "b.txt").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"no document to write: 2 files were read"):
        run([tmp_path / "*.txt"], tmp_path / "out", tokenizer=kind)
    assert not (tmp_path / "out").exists()


def test_missing_inputs_are_found_before_anything_is_made(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        run([tmp_path / "absent"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
