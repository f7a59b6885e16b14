"""What documents are not wanted? Filters of a sources file: each is one schema that can judge a text."""

from mypt_dist.data.filters.chain import Chain, Filter
from mypt_dist.data.filters.characters import Characters
from mypt_dist.data.filters.duplicates import ExactDuplicates, NearDuplicates
from mypt_dist.data.filters.language import Language
from mypt_dist.data.filters.length import Length
from mypt_dist.data.filters.repetition import Repetition
from mypt_dist.data.filters.sample import HEAD_CHARACTERS, Sample

__all__ = [
    "HEAD_CHARACTERS",
    "Chain",
    "Characters",
    "ExactDuplicates",
    "Filter",
    "Language",
    "Length",
    "NearDuplicates",
    "Repetition",
    "Sample",
]
