"""Filters: pure functions of a text."""

import json
import random
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from mypt_dist.data.filters import (
    HEAD_CHARACTERS,
    Chain,
    Characters,
    ExactDuplicates,
    Filter,
    Language,
    Length,
    NearDuplicates,
    Repetition,
    Sample,
)
from mypt_dist.data.filters.duplicates import SKETCH_BYTES, SketchTable, sketch_of
from mypt_dist.data.filters.language import language_of
from mypt_dist.data.filters.repetition import repeated_share, top_share

TEXTS = json.loads(Path(__file__).with_name("languages.json").read_text(encoding="utf-8"))
"""The same two sentences in every language."""
ALL = [Length(), Characters(), Language(keep=("de", "en")), Repetition()]


def prose(seed: int, words: int) -> str:
    """Words that hardly ever come twice."""
    chosen = random.Random(seed)
    return " ".join("".join(chosen.choices(string.ascii_lowercase, k=7)) for _ in range(words))


@given(st.text())
def test_every_text_can_be_judged_and_is_judged_alike_each_time(text: str) -> None:
    for each in ALL:
        assert each.judge(Sample.of(text)) == each.judge(Sample.of(text))
    assert len(sketch_of(Sample.of(text))) in (0, SKETCH_BYTES)


@given(st.text(min_size=1), st.integers(1, 50), st.integers(0, 50))
def test_length_keeps_exactly_what_is_within(text: str, least: int, more: int) -> None:
    kept = Length(min_characters=least, max_characters=least + more).judge(Sample.of(text)) is None
    assert kept == (least <= len(text) <= least + more)


def test_a_length_that_nothing_can_have_is_refused() -> None:
    with pytest.raises(ValidationError, match="nothing could be kept"):
        Length(min_characters=5, max_characters=4)


def test_a_long_document_is_judged_by_its_beginning_and_its_whole_length() -> None:
    sample = Sample.of("a" * HEAD_CHARACTERS + "\x00" * 1000)
    assert Characters().judge(sample) is None
    assert "more than" in str(Length(max_characters=HEAD_CHARACTERS).judge(sample))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Nur Wörter, 世界 und слова.", None),
        ("1 2 3 4 5 6 a", "14% letters, fewer than 60%"),
        ("broken \ufffd" + "text " * 20, "0.93% control characters, more than 0.10%"),
        ("lines\n\tand tabs\r\n", None),
        ("   ", None),
    ],
)
def test_characters(text: str, reason: str | None) -> None:
    assert Characters().judge(Sample.of(text)) == reason


@pytest.mark.parametrize("code", TEXTS)
def test_languages_are_told_apart(code: str) -> None:
    assert language_of(Sample.of(TEXTS[code]))[0] == code
    german_or_english = Language(keep=("de", "en")).judge(Sample.of(TEXTS[code]))
    assert (german_or_english is None) == (code in ("de", "en"))


def test_what_is_in_no_listed_language_is_dropped_and_what_is_too_short_to_tell_is_kept() -> None:
    language = Language(keep=("de",))
    assert language.judge(Sample.of("Tom laughs.")) is None
    assert str(language.judge(Sample.of(prose(0, 50)))).startswith("in no known language")
    assert str(language.judge(Sample.of("слова " * 50))).startswith("in no known language")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (prose(0, 200), None),
        ("\n".join([prose(1, 8)] * 3 + [prose(i, 8) for i in range(2, 5)]), "33% of lines are repeated"),
        (f"{prose(1, 40)}\n\n{prose(1, 40)}\n\nend\n\nof\n\nit", "of characters are in repeated lines"),
        (" ".join(f"very good {word}" for word in prose(0, 20).split()), "in one phrase of 2 words"),
        (f"{prose(0, 30)} {prose(9, 30)}, {prose(0, 15)}", "in repeated phrases of 5 words"),
        ("hello world", None),
    ],
)
def test_repetition(text: str, reason: str | None) -> None:
    found = Repetition().judge(Sample.of(text))
    assert found is None if reason is None else reason in str(found)


@given(st.lists(st.sampled_from(["a", "bb", "ccc", "dddd"]), min_size=1, max_size=40), st.integers(2, 6))
def test_shares_of_phrases_are_those_of_a_slow_count(words: list[str], n: int) -> None:
    phrases = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    counts = {phrase: phrases.count(phrase) for phrase in phrases}
    covered = {i + j for i, phrase in enumerate(phrases) if counts[phrase] > 1 for j in range(n)}
    total = sum(map(len, words))
    sample = Sample.of(" ".join(words))
    assert repeated_share(sample, n) == pytest.approx(sum(len(words[i]) for i in covered) / total)
    most = max(counts.values(), default=1)
    lengths = [sum(map(len, phrase)) for phrase, count in counts.items() if count == most]
    assert top_share(sample, n) == pytest.approx(min(1, max(lengths) * most / total) if most > 1 else 0)


def test_near_duplicates_are_found_by_what_they_share() -> None:
    table = SketchTable(1)
    found = {0: 0, 2: 0, 60: 0}
    for seed in range(100):
        words = prose(seed, 200).split()
        table.add(sketch_of(Sample.of(" ".join(words))))
        for changed in found:
            other = [*words[: 200 - changed], *prose(1000 + seed, changed).split()] if changed else words
            found[changed] += table.has_like(sketch_of(Sample.of(" ".join(other).upper())))
    assert found[0] == 100, "letters' size does not matter"
    assert found[2] >= 98
    assert 3 <= found[60] <= 17, "they share 0.53 of their phrases: 9 of 100 are expected"
    assert not any(table.has_like(sketch_of(Sample.of(prose(5000 + seed, 200)))) for seed in range(300))


def test_a_text_of_few_words_has_no_near_duplicate() -> None:
    assert sketch_of(Sample.of("one two three four")) == b""
    assert len(sketch_of(Sample.of("one two three four five"))) == SKETCH_BYTES


def test_a_sketch_is_the_same_on_every_machine_and_for_ever() -> None:
    assert (
        sketch_of(Sample.of("the quick brown fox jumps over the lazy dog"))[:16].hex()
        == "e67f5c234ce86207cce5f7333b79415d"
    )


def test_the_memory_of_near_duplicates_is_bounded() -> None:
    table = SketchTable(1)
    sketches = [random.Random(i).randbytes(SKETCH_BYTES) for i in range(30_000)]
    for sketch in sketches:
        table.add(sketch)
    assert table._keys.nbytes == 1 << 20
    assert all(map(table.has_like, sketches[-1000:])), "the newest are known"
    assert not all(map(table.has_like, sketches[:1000])), "the oldest are forgotten"


@settings(max_examples=30)
@given(st.permutations([*ALL, ExactDuplicates(), NearDuplicates()]), st.text())
def test_a_chain_drops_what_the_first_of_its_filters_drops(filters: list[Filter], text: str) -> None:
    sample = Sample.of(text)
    reasons = [(each.type, reason) for each in filters if each in ALL and (reason := each.judge(sample))]
    assert Chain(filters).judge(sample) == (reasons[0] if reasons else None)


def test_without_filters_no_text_is_looked_at() -> None:
    assert not Chain().sees_texts
    assert not Chain([ExactDuplicates()]).sees_texts
    assert Chain([NearDuplicates()]).sees_texts


def test_filters_are_read_by_type() -> None:
    read = TypeAdapter(tuple[Filter, ...]).validate_python([{"type": "near_duplicates"}, {"type": "length"}])
    assert read == (NearDuplicates(), Length())


def test_ngrams_of_few_words_are_none() -> None:
    assert np.array_equal(Sample.of("a b").ngrams(3), np.array([], np.uint64))
    assert len(Sample.of("a b c").ngrams(3)) == 1
