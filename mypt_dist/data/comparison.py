"""Which tokenizer suits a text? Measured on a part of it that no tokenizer was learned from."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers import CharTokenizer, Tokenizer, build_tokenizer
from mypt_dist.tokenizers.chunks import Chunker
from mypt_dist.tokenizers.learn import learn_bpe
from mypt_dist.tokenizers.ranked import safe_cut

PIECE = 8192
"""Characters of a piece that is learned from or held out as a whole."""
HELD_OUT = 10
"""One of so many pieces is held out."""
MOST_CHARACTERS = 64_000_000
"""Of a larger text this much, from its beginning, is compared; it is held in memory."""
MEASURE_S = 0.2
"""Seconds of encoding after which a speed is known."""


@dataclass(frozen=True, slots=True)
class Parted:
    """A text in two."""

    learned: list[str]
    held_out: list[str]
    whole: bool
    """Whether the text is so short that both are all of it."""
    cut: bool
    """Whether there is more of it than was taken."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One tokenizer and the text that was held out."""

    name: str
    ids: int
    tokens: int
    characters: int
    bytes: int
    unknown: int
    """Tokens that stand for a character which the tokenizer does not know."""
    bytes_per_second: float
    """Of one thread."""

    @property
    def rows(self) -> int:
        """Of the embedding."""
        return -(-self.ids // 64) * 64

    @property
    def characters_per_token(self) -> float:
        return self.characters / self.tokens

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens

    def to_json(self, width: int, context: int) -> dict[str, Any]:
        """For programs."""
        return {
            "tokenizer": self.name,
            "ids": self.ids,
            "rows": self.rows,
            "tokens": self.tokens,
            "characters_per_token": self.characters_per_token,
            "bytes_per_token": self.bytes_per_token,
            "embedding_parameters": self.rows * width,
            "context_characters": round(self.characters_per_token * context),
            "unknown": self.unknown,
            "bytes_per_second": self.bytes_per_second,
        }


def parted(texts: Iterable[str]) -> Parted:
    """Every tenth piece is held out; a text of one piece is learned from and measured as a whole.

    Raises `ConfigError` where there is no text.
    """
    pieces: list[str] = []
    taken, cut = 0, False
    for piece in _pieces(texts):
        if taken + len(piece) > MOST_CHARACTERS:
            cut = True
            break
        pieces.append(piece)
        taken += len(piece)
    if not pieces:
        raise ConfigError("there is no text to compare tokenizers on")
    # Of fewer pieces the last one.
    held = set(range(HELD_OUT - 1, len(pieces), HELD_OUT)) or {len(pieces) - 1}
    learned = [piece for number, piece in enumerate(pieces) if number not in held]
    return Parted(learned or pieces, [pieces[number] for number in sorted(held)], len(pieces) == 1, cut)


def candidates(text: Parted, sizes: Sequence[int], given: Mapping[str, Tokenizer]) -> Iterator[tuple[str, Tokenizer]]:
    """GPT-2's, bytes, the characters and BPEs of ``sizes`` ids of the part that is learned from, and those given."""
    yield "gpt2", build_tokenizer("gpt2")
    yield "byte", build_tokenizer("byte")
    yield "char", CharTokenizer.of(character for piece in text.learned for character in set(piece))
    for size in dict.fromkeys(sizes):
        learned = learn_bpe(text.learned, size)
        yield f"bpe {learned.vocab_size}", learned
    yield from given.items()


def measured(name: str, tokenizer: Tokenizer, texts: Sequence[str]) -> Measured:
    """Encode ``texts`` as often as it takes to know how fast that is."""
    unknown = tokenizer.unknown_id if isinstance(tokenizer, CharTokenizer) else -1
    tokens = strange = passes = 0
    begin = time.perf_counter()
    while not passes or time.perf_counter() - begin < MEASURE_S:
        for text in texts:
            ids = tokenizer.encode(text)
            if not passes:
                tokens, strange = tokens + len(ids), strange + int((ids == unknown).sum() if unknown >= 0 else 0)
        passes += 1
    size = sum(len(text.encode(errors="replace")) for text in texts)
    return Measured(
        name=name,
        ids=tokenizer.vocab_size,
        tokens=tokens,
        characters=sum(map(len, texts)),
        bytes=size,
        unknown=strange,
        bytes_per_second=passes * size / (time.perf_counter() - begin),
    )


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        chunker = Chunker(safe_cut, PIECE)
        yield from chunker.feed(text)
        if rest := chunker.rest():
            yield rest
