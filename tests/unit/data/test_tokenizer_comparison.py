"""Tokenizers are compared on text that none of them was learned from."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mypt_dist.data import comparison
from mypt_dist.data.comparison import HELD_OUT, PIECE, candidates, measured, parted
from mypt_dist.data.prepare.corpus import Corpus
from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers import build_tokenizer

WORDS = st.lists(st.text("ab c", min_size=1, max_size=30), min_size=1, max_size=30)


@given(WORDS.filter(lambda texts: len(texts) > 1))
def test_no_piece_is_learned_from_and_measured(texts: list[str]) -> None:
    numbered = [f"{number} {text}" for number, text in enumerate(texts)]
    text = parted(numbered)
    assert sorted([*text.learned, *text.held_out]) == sorted(numbered)
    assert len(text.held_out) == max(1, len(texts) // HELD_OUT)
    assert not text.whole


def test_a_single_short_text_is_both_and_says_so() -> None:
    text = parted(["a few words"])
    assert (text.learned, text.held_out, text.whole) == (["a few words"], ["a few words"], True)
    with pytest.raises(ConfigError, match="no text"):
        parted([])


def test_a_long_text_is_cut_into_pieces_and_read_no_further_than_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "some words " * 5000
    text = parted([long])
    assert all(len(piece) <= PIECE for piece in (*text.learned, *text.held_out))
    assert sum(map(len, (*text.learned, *text.held_out))) == len(long)
    monkeypatch.setattr(comparison, "MOST_CHARACTERS", 2 * PIECE)
    assert parted([long]).cut
    assert not text.cut


def test_what_is_measured_is_what_encoding_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MEASURE_S", 0)
    texts = ["Grüße, ", "world"]
    row = measured("byte", build_tokenizer("byte"), texts)
    assert (row.tokens, row.characters, row.bytes, row.unknown) == (14, 12, 14, 0)
    assert row.to_json(768, 70)["context_characters"] == 60
    assert row.to_json(768, 70)["embedding_parameters"] == 320 * 768
    strange = measured("char", build_tokenizer("char", "world"), texts)
    assert (strange.tokens, strange.unknown) == (12, 6)


def test_everything_is_learned_from_the_other_part() -> None:
    text = parted([f"word{number} here there " * 3 for number in range(20)])
    found = dict(candidates(text, [290, 280, 290], {"mine": build_tokenizer("byte")}))
    assert list(found) == ["gpt2", "byte", "char", "bpe 290", "bpe 280", "mine"]
    assert set(found["char"].characters) == set("".join(text.learned))  # type: ignore[attr-defined]


def test_a_corpus_gives_the_documents_that_are_prepared(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.jsonl").write_text('{"body": "second"}\n{"body": 3}\n{"body": "third"}\n')
    (tmp_path / "c.md").write_bytes(b"\xff")
    told: list[tuple[int, int]] = []
    corpus = Corpus([tmp_path], "body")
    assert list(corpus.texts(lambda *done: told.append(done))) == ["first", "second", "third"]
    assert corpus.problems.counts == {"bad_json": 1, "bad_utf8": 1}
    assert told[-1][0] == told[-1][1] == sum(path.stat().st_size for path in tmp_path.iterdir())
