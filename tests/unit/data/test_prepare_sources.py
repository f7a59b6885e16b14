"""From a sources file to datasets and their mixture."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import WORDS
from prepare_corpus import documents_of, files_of, held_out

from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.data.prepare import PrepareSettings, assembly, journal, work
from mypt_dist.data.sources import PrepareOptions, prepare_sources, read_sources
from mypt_dist.data.verify import verify_dataset
from mypt_dist.errors import ConfigError, LockError
from mypt_dist.tokenizers import ByteTokenizer

FILTERS = [
    {"type": "length", "min_characters": 30},
    {"type": "characters"},
    {"type": "repetition"},
    {"type": "exact_duplicates"},
    {"type": "near_duplicates", "memory_mb": 1},
]


def sentence(words: random.Random, length: int) -> str:
    return " ".join("".join(words.choices("abcdefghij", k=5)) for _ in range(length))


def write_texts(folder: Path) -> None:
    """Two sources that have something for every filter, and large documents that are cut."""
    words = random.Random(1)
    folder.mkdir()
    texts = [sentence(words, 60) for _ in range(120)]
    texts += [texts[3], texts[5] + " more", "short", "1 2 3 " * 20, "same line here\n" * 30, " ", texts[5]]
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts) + "{}\n")
    (folder / "large.txt").write_text(sentence(words, 45_000))
    (folder / "lines.txt").write_text("".join(sentence(words, 9) + "\n" for _ in range(600)))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_texts(folder / "texts")
    sources = {
        "mixed": {"paths": ["texts/large.txt", "texts/a.jsonl"], "weight": 0.7},
        "Lines": {
            "paths": "texts/lines.txt",
            "format": {"type": "lines", "lines_per_document": 4},
            "filters": [],
            "weight": 0.3,
        },
    }
    (folder / "s.json").write_text(json.dumps({"filters": FILTERS, "sources": sources}))
    return folder / "s.json"


def run(corpus: Path, out: Path, options: PrepareOptions | None = None, **settings: Any) -> dict[str, DatasetManifest]:
    chosen = {"tokenizer": "byte", "val_fraction": 0.2, "workers": 2, "shard_tokens": 70_000, **settings}
    return prepare_sources(read_sources(str(corpus)), out, PrepareSettings.model_validate(chosen), options)


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a preparation that nothing happens to makes: datasets in ``out``, rejects in ``rejects``."""
    folder = tmp_path_factory.mktemp("whole")
    run(corpus, folder / "out", PrepareOptions(rejects=folder / "rejects"))
    return folder


def test_each_source_is_a_dataset_and_the_mixture_names_them(corpus: Path, whole: Path) -> None:
    manifests = {key: DatasetManifest.read(whole / "out" / key) for key in ("mixed", "Lines")}
    assert json.loads((whole / "out/mixture.json").read_text()) == {
        "format": "mypt-mixture",
        "version": 1,
        "sources": [
            {"name": "mixed", "path": "mixed", "weight": 0.7, "fingerprint": manifests["mixed"].fingerprint},
            {"name": "lines", "path": "Lines", "weight": 0.3, "fingerprint": manifests["Lines"].fingerprint},
        ],
    }
    assert [source.path for source in manifests["mixed"].sources] == ["mixed of s.json"]
    for key, manifest in manifests.items():
        assert verify_dataset(whole / "out" / key) == []
        assert len(manifest.splits.train.shards) > 1 or key == "Lines"
        assert manifest.settings["split"] == "hash"
        assert ("filters" in manifest.settings) == (key == "mixed")


def test_documents_are_held_out_by_their_hash_in_each_source(whole: Path) -> None:
    for split, is_val in (("train", False), ("val", True)):
        documents = documents_of(whole / "out/Lines", split)
        assert documents
        assert {held_out(text, 0.2) for text in documents} == {is_val}


def test_counts_add_up_and_every_document_that_is_dropped_is_written_down(corpus: Path, whole: Path) -> None:
    counts = DatasetManifest.read(whole / "out/mixed").counts
    assert counts.left_out() == {
        "empty": 1,
        "duplicates": 2,
        "bad_json": 1,
        "length": 1,
        "characters": 1,
        "repetition": 1,
        "near_duplicates": 1,
    }
    lines = (corpus.parent / "texts/a.jsonl").read_text().count("\n")
    assert counts.documents + sum(counts.left_out().values()) == lines + 1
    rejects = [json.loads(line) for line in (whole / "rejects/mixed.jsonl").read_text().splitlines()]
    assert Counter(reject["reason"] for reject in rejects) == counts.left_out()
    origins = {reject["origin"].rpartition(":")[2]: reject["reason"] for reject in rejects}
    assert [origins[line] for line in ("121", "122", "128")] == ["duplicates", "near_duplicates", "bad_json"]
    assert next(r for r in rejects if r["reason"] == "length") == {
        "reason": "length",
        "origin": f"{corpus.parent}/texts/a.jsonl:123",
        "detail": "5 characters, fewer than 30",
        "start": "short",
    }
    assert (whole / "rejects/Lines.jsonl").read_bytes() == b""


@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_workers_changes_no_byte(corpus: Path, whole: Path, memory: Path, workers: int) -> None:
    run(corpus, memory / "out", PrepareOptions(rejects=memory / "rejects"), workers=workers)
    assert files_of(memory) == files_of(whole)


class BrokenOffError(Exception):
    pass


@pytest.mark.parametrize("point", range(3))
def test_what_was_broken_off_goes_on_to_the_same_bytes(
    corpus: Path, whole: Path, memory: Path, point: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SAVE_EVERY_BYTES", 20_000)
    chance, options = random.Random(point), PrepareOptions(rejects=memory / "rejects")
    take, encode = assembly.Assembly.take, work.Encode.document
    encoded: list[int] = []
    left = 0

    def take_some(self: assembly.Assembly, outcome: work.Outcome) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise BrokenOffError
        take(self, outcome)

    def count(self: work.Encode, document: Any, number: int | None, into: work.Outcome) -> None:
        encoded.append(1)
        encode(self, document, number, into)

    monkeypatch.setattr(assembly.Assembly, "take", take_some)
    monkeypatch.setattr(work.Encode, "document", count)
    lives = 0
    while True:
        # More each time, so that it comes to an end.
        left, lives = chance.randint(1, 3) + lives, lives + 1
        encoded.clear()
        try:
            run(corpus, memory / "out", options)
        except BrokenOffError:
            continue
        break
    assert lives > 1
    assert files_of(memory) == files_of(whole)


def test_a_broken_off_source_is_gone_on_with_and_not_begun_again(
    corpus: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SAVE_EVERY_BYTES", 20_000)
    monkeypatch.setattr(assembly.Assembly, "take", _failing_after(3, assembly.Assembly.take))
    with pytest.raises(BrokenOffError):
        run(corpus, memory / "out", PrepareOptions(only=["mixed"]))
    monkeypatch.undo()
    encoded: list[str] = []
    chunk = work.Encode.chunk
    monkeypatch.setattr(work.Encode, "chunk", lambda self, piece, into: (encoded.append("x"), chunk(self, piece, into)))
    run(corpus, memory / "out", PrepareOptions(only=["mixed"]))
    assert not encoded, "the large document was taken before"


def _failing_after(takes: int, take: Any) -> Any:
    def take_some(self: assembly.Assembly, outcome: work.Outcome) -> None:
        if self.works == takes:
            raise BrokenOffError
        take(self, outcome)

    return take_some


@pytest.mark.parametrize("change", ["file", "setting", "kept.bin", "position.json", "train/shard-00000.bin"])
def test_what_others_left_is_not_gone_on_with(
    corpus: Path, memory: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(memory / "texts")
    (memory / "s.json").write_text(corpus.read_text())
    only = PrepareOptions(only=["mixed"])
    monkeypatch.setattr(journal, "SAVE_EVERY_BYTES", 20_000)
    monkeypatch.setattr(assembly.Assembly, "take", _failing_after(4, assembly.Assembly.take))
    with pytest.raises(BrokenOffError):
        run(memory / "s.json", memory / "out", only)
    monkeypatch.undo()
    fraction = 0.5 if change == "setting" else 0.2
    if change == "file":
        (memory / "texts/large.txt").write_text("other text")
    elif change != "setting":
        (memory / "out/mixed/.preparing" / change).write_bytes(b"")
    run(memory / "s.json", memory / "out", only, val_fraction=fraction)
    run(memory / "s.json", memory / "fresh", only, val_fraction=fraction)
    assert files_of(memory / "out") == files_of(memory / "fresh")


def test_a_finished_source_is_not_done_again(
    corpus: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = PrepareOptions(only=["mixed"])
    run(corpus, tmp_path / "out", first)
    assert [s["name"] for s in json.loads((tmp_path / "out/mixture.json").read_text())["sources"]] == ["mixed"]
    before = files_of(tmp_path / "out/mixed")
    read: list[str] = []
    encode = ByteTokenizer.encode
    monkeypatch.setattr(ByteTokenizer, "encode", lambda self, text: (read.append(text), encode(self, text))[1])
    run(corpus, tmp_path / "out")
    assert sum(map(len, read)) < (corpus.parent / "texts/lines.txt").stat().st_size + 1, "only the other was read"
    read.clear()
    run(corpus, tmp_path / "out", overwrite=True)
    assert not read
    assert files_of(tmp_path / "out/mixed") == before


def test_a_source_of_other_settings_is_replaced_only_if_told(corpus: Path, tmp_path: Path) -> None:
    only = PrepareOptions(only=["Lines"])
    before = run(corpus, tmp_path / "out", only)["Lines"]
    with pytest.raises(ConfigError, match=r"out/Lines was prepared from other files or with other settings: choose"):
        run(corpus, tmp_path / "out", only, val_fraction=0.3)
    with pytest.raises(ConfigError, match=r"out/Lines was prepared without what was left out: choose"):
        run(corpus, tmp_path / "out", PrepareOptions(only=["Lines"], rejects=tmp_path / "rejects"))
    assert DatasetManifest.read(tmp_path / "out/Lines") == before
    after = run(corpus, tmp_path / "out", only, val_fraction=0.3, overwrite=True)["Lines"]
    assert after.fingerprint != before.fingerprint
    assert after.fingerprint in (tmp_path / "out/mixture.json").read_text()


def test_near_duplicates_of_another_source_stay(tmp_path: Path) -> None:
    text = " ".join(WORDS)
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(text)
    sources = {name: {"paths": f"{name}.txt"} for name in "ab"}
    (tmp_path / "s.json").write_text(json.dumps({"filters": FILTERS, "sources": sources}))
    manifests = run(tmp_path / "s.json", tmp_path / "out", val_fraction=0)
    assert [manifest.counts.documents for manifest in manifests.values()] == [1, 1]


def test_two_cannot_prepare_in_one_folder(corpus: Path, tmp_path: Path) -> None:
    from mypt_dist.data.durable import only_process

    (tmp_path / "out").mkdir()
    with only_process(tmp_path / "out", ".preparing.lock", "here"), pytest.raises(LockError, match="preparing sources"):
        run(corpus, tmp_path / "out")


@pytest.mark.parametrize(
    ("sources", "settings", "message"),
    [
        ({"a": {"urls": [["a.txt", "https://example.org/a.txt"]]}}, {}, "a is downloaded or unpacked: say where"),
        ({"a": {"paths": "absent.txt"}}, {}, "there is no file .*absent.txt"),
        ({"a": {"paths": "a.txt"}, "A": {"paths": "a.txt", "subdir": "b"}}, {}, "two keys are 'a' in small letters"),
        ({"a": {"paths": "a.txt"}}, {"tokenizer": "char"}, "a mixture needs one tokenizer"),
        ({"a": {"paths": "t.parquet.gz"}}, {}, "t.parquet.gz is a packed table"),
        ({"a": {"paths": "a.txt", "filters": [{"type": "lengths"}]}}, {}, "sources.a.filters.0"),
        ({"a": {"paths": "a.txt", "filters": [{"type": "language", "keep": ["tlh"]}]}}, {}, "filters.0.keep.0"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    tmp_path: Path, sources: dict[str, Any], settings: dict[str, str], message: str
) -> None:
    for name in ("a.txt", "t.parquet.gz"):
        (tmp_path / name).write_text("text")
    (tmp_path / "s.json").write_text(json.dumps({"sources": sources}))
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "s.json", tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_source_without_a_document_leaves_nothing_and_the_others_stay(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").write_text(" ")
    (tmp_path / "s.json").write_text(json.dumps({"sources": {name: {"paths": f"{name}.txt"} for name in "ab"}}))
    with pytest.raises(ConfigError, match=r"no document to write: 1 files were read \(1 empty\)"):
        run(tmp_path / "s.json", tmp_path / "out", val_fraction=0)
    assert (tmp_path / "out/a/dataset.json").exists()
    assert not (tmp_path / "out/b").exists()
