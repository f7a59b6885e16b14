"""What goes into which split, and what happens when files change while they are read."""

import numpy as np
import pytest
from prepare_corpus import held_out, run, text_of, tokens_of

from mypt_dist.data.prepare import PrepareSettings, prepare, reading, work
from mypt_dist.data.verify import verify_dataset
from mypt_dist.errors import ConfigError, DataError


@pytest.mark.parametrize(("count", "fraction"), [(1, 0.1), (1, 0.001), (5, 0.0001), (1, 0.9999)])
def test_where_the_hash_leaves_a_split_empty_the_end_is_held_out(tmp_path, count, fraction, caplog):
    texts = [text_of(i) for i in range(count)]
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_text(text, newline="")
    report = run([tmp_path], tmp_path / "out", val_fraction=fraction, shard_tokens=500)
    train, val = tokens_of(tmp_path / "out", "train"), tokens_of(tmp_path / "out", "val")
    total = sum(len(text.encode()) + 1 for text in texts)
    assert len(val) == min(max(1, round(total * fraction)), total - 1)
    everything = [token for text in texts for token in [*text.encode(), 256]]
    # The document that was cut has two ends.
    assert train == [*everything[: -len(val)], 256]
    assert val == everything[-len(val) :]
    assert report.manifest.settings["split"] == "tail"
    assert report.manifest.splits.train.bytes + report.manifest.splits.val.bytes == total - count
    assert report.manifest.splits.train.documents == train.count(256)
    assert report.manifest.counts.documents == train.count(256) + val.count(256)
    assert "held out instead" in caplog.text
    assert verify_dataset(tmp_path / "out") == []


def test_a_cut_between_documents_adds_no_end_of_text(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("1234")
    # Equal documents have equal hashes, so one split is empty.
    report = run([tmp_path], tmp_path / "out", val_fraction=0.5)
    assert (report.manifest.splits.train.tokens, report.manifest.splits.val.tokens) == (5, 5)


def test_nothing_is_held_out_if_nothing_is_asked_for(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    report = run([tmp_path / "a.txt"], tmp_path / "out", val_fraction=0.0)
    assert report.manifest.splits.val.tokens == 0
    assert report.manifest.settings["split"] == "hash"


def test_a_validation_larger_than_training_is_warned_of(tmp_path, caplog):
    texts = [text_of(i) for i in range(20)]
    large = next(text for text in (text_of(f"large {i}", 20_000) for i in range(99)) if held_out(text, 0.2))
    for i, text in enumerate([*texts, large]):
        (tmp_path / f"{i}.txt").write_text(text, newline="")
    run([tmp_path], tmp_path / "out", val_fraction=0.2)
    assert "a large one was held out" in caplog.text


def test_a_file_that_changes_between_two_readings_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text(text_of("a", 60_000))
    scan = reading._scan

    def scan_then_change(file, on_bad):
        found = scan(file, on_bad)
        path.write_text(text_of("b", 60_000))
        return found

    monkeypatch.setattr(reading, "_scan", scan_then_change)
    with pytest.raises(DataError, match=r"a.txt changed while it was being read"):
        run([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_vanishes_between_two_readings_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text(text_of("a", 60_000))
    scan = reading._scan

    def scan_then_remove(file, on_bad):
        found = scan(file, on_bad)
        path.unlink()
        return found

    monkeypatch.setattr(reading, "_scan", scan_then_remove)
    with pytest.raises(DataError, match="could be read once but not again: No such file"):
        run([path], tmp_path / "out")


def test_a_small_file_that_grows_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(2 * work.WHOLE_BYTES))
    looked_small = work.WholeFile(work.Origin(path, 0, 5))
    with pytest.raises(DataError, match=r"a.txt grew while it was being read"):
        work.perform(looked_small, work.Reading("text", "skip"), work.CollectCharacters())


def test_an_id_outside_the_vocabulary_is_never_written(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text")
    monkeypatch.setattr(
        "mypt_dist.tokenizers.ByteTokenizer.encode", lambda self, text: np.array([65_536 + 7], np.uint32)
    )
    with pytest.raises(DataError, match="token 65543 is not one of the 274 of the vocabulary"):
        run([tmp_path / "a.txt"], tmp_path / "out")


def test_settings_out_of_range_are_refused():
    from pydantic import ValidationError

    for wrong in ({"val_fraction": 1.0}, {"workers": 0}, {"tokenizer": ""}, {"text_field": ""}, {"lower": True}):
        with pytest.raises(ValidationError):
            PrepareSettings(**wrong)
    assert PrepareSettings().threads() >= 1


def test_a_tokenizer_that_is_neither_known_nor_a_file_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ConfigError, match="no such tokenizer"):
        prepare([tmp_path / "a.txt"], tmp_path / "out", PrepareSettings(tokenizer="bpe"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
