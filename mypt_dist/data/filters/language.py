"""Documents in other languages, told by their function words: no model, no network.

Function words make up some third of running text. So the language whose list covers most words of a text is the text's,
if that is enough words at all. Limits: short texts, lists of names and code have too few of these words to be told;
languages without a list here (all that are not written in Latin letters among them) are told from those that have one,
not from each other; a text of two languages counts as the one it has more of.
"""

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field

from mypt_dist.config import Config, read_json
from mypt_dist.data.filters.characters import Share
from mypt_dist.data.filters.sample import Sample

Code: TypeAlias = Literal["de", "en", "es", "fr", "it", "nl", "pt", "sv"]

FUNCTION_WORDS = Path(__file__).with_name("function_words.json")


@cache
def _listed() -> dict[Code, frozenset[str]]:
    return {code: frozenset(words.split()) for code, words in read_json(FUNCTION_WORDS).items()}


class Language(Config):
    """Keeps documents that are in one of some languages. Told by their function words, not by a model."""

    type: Literal["language"] = "language"
    keep: tuple[Code, ...] = Field(min_length=1)
    """Any of de, en, es, fr, it, nl, pt, sv. All of these are told apart."""
    min_words: int = Field(default=20, ge=1)
    """A document of fewer words cannot be told, and is kept."""
    min_share: Share = 0.15
    """Share of function words below which a text is in none of the languages."""

    def judge(self, sample: Sample) -> str | None:
        """Why the document is dropped; None: it is kept."""
        if len(sample.words) < self.min_words:
            return None
        found, share = language_of(sample)
        if share < self.min_share:
            return f"in no known language ({share:.0%} function words)"
        return None if found in self.keep else f"in {found} ({share:.0%} function words)"


def language_of(sample: Sample) -> tuple[Code, float]:
    """The language whose function words are the largest share of a text's words, and that share. Needs a word."""
    counts = Counter(sample.words)
    shares = {
        code: sum(counts[word] for word in listed) / len(sample.words) for code, listed in sorted(_listed().items())
    }
    best = max(shares, key=lambda code: shares[code])
    return best, shares[best]
