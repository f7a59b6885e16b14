"""Documents that say the same again and again.

The rules and thresholds are those of Gopher (Rae et al. 2021, arXiv 2112.11446, table A1).
"""

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from mypt_dist.config import Config
from mypt_dist.data.filters.characters import Share
from mypt_dist.data.filters.sample import Sample

_TOP_FROM, _REPEATED_FROM = 2, 5
"""Words of the shortest run in `Repetition.top_ngrams` and in `Repetition.repeated_ngrams`."""


class Repetition(Config):
    """Drops texts that repeat lines, paragraphs or phrases."""

    type: Literal["repetition"] = "repetition"
    duplicate_lines: Share = 0.3
    """Share of lines that stand in the text before."""
    duplicate_line_characters: Share = 0.2
    """Share of characters in them."""
    duplicate_paragraphs: Share = 0.3
    """The same of paragraphs, which have blank lines between them."""
    duplicate_paragraph_characters: Share = 0.2
    """Share of characters in them."""
    top_ngrams: Annotated[tuple[Share, ...], Field(max_length=3)] = (0.2, 0.18, 0.16)
    """Share of characters in the most frequent run of 2, 3 and 4 words, if it comes more than once."""
    repeated_ngrams: Annotated[tuple[Share, ...], Field(max_length=6)] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.1)
    """Share of characters in runs of 5, 6, 7, 8, 9 and 10 words that come more than once."""

    def judge(self, sample: Sample) -> str | None:
        """Why the document is dropped; None: it is kept."""
        for what, share, limit in self._shares(sample):
            if share > limit:
                return f"{share:.0%} {what}, more than {limit:.0%}"
        return None

    def _shares(self, sample: Sample) -> Iterator[tuple[str, float, float]]:
        """Lazy: most texts that are dropped are dropped by the first, which cost least."""
        lines = _repeated(sample.head.split("\n"))
        yield "of lines are repeated", lines[0], self.duplicate_lines
        yield "of characters are in repeated lines", lines[1], self.duplicate_line_characters
        paragraphs = _repeated(sample.head.split("\n\n"))
        yield "of paragraphs are repeated", paragraphs[0], self.duplicate_paragraphs
        yield "of characters are in repeated paragraphs", paragraphs[1], self.duplicate_paragraph_characters
        for n, limit in enumerate(self.top_ngrams, _TOP_FROM):
            yield f"of characters are in one phrase of {n} words", top_share(sample, n), limit
        for n, limit in enumerate(self.repeated_ngrams, _REPEATED_FROM):
            yield f"of characters are in repeated phrases of {n} words", repeated_share(sample, n), limit


def _repeated(parts: list[str]) -> tuple[float, float]:
    """Share of parts that stood before, and of characters in them. Blank parts do not count."""
    counts = Counter(stripped for part in parts if (stripped := part.strip()))
    if not counts:
        return 0.0, 0.0
    more = {part: count - 1 for part, count in counts.items()}
    characters = sum(len(part) * count for part, count in counts.items())
    return sum(more.values()) / counts.total(), sum(len(part) * count for part, count in more.items()) / characters


def top_share(sample: Sample, n: int) -> float:
    """Share of the characters of words that are in the most frequent run of ``n`` words; 0 where none comes twice."""
    values, first, counts = np.unique(sample.ngrams(n), return_index=True, return_counts=True)
    if not len(values) or counts.max() < 2:
        return 0.0
    lengths = _lengths(sample)
    top = np.flatnonzero(counts == counts.max())
    longest = max(int(lengths[first[i] : first[i] + n].sum()) for i in top)
    return min(1.0, longest * int(counts.max()) / int(lengths.sum()))


def repeated_share(sample: Sample, n: int) -> float:
    """Share of the characters of words that are in any run of ``n`` words that comes more than once, each once."""
    ngrams = sample.ngrams(n)
    _, inverse, counts = np.unique(ngrams, return_inverse=True, return_counts=True)
    if not len(ngrams):
        return 0.0
    starts = np.flatnonzero(counts[inverse] > 1)
    covered = np.zeros(len(sample.words), bool)
    for i in range(n):
        covered[starts + i] = True
    lengths = _lengths(sample)
    return float(lengths[covered].sum() / lengths.sum())


def _lengths(sample: Sample) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    return np.fromiter(map(len, sample.words), np.int64, len(sample.words))
