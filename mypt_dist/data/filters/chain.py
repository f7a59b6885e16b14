"""Filters one after another."""

from collections.abc import Sequence
from typing import Annotated, TypeAlias

from pydantic import Field

from mypt_dist.data.filters.characters import Characters
from mypt_dist.data.filters.duplicates import ExactDuplicates, NearDuplicates, sketch_of
from mypt_dist.data.filters.language import Language
from mypt_dist.data.filters.length import Length
from mypt_dist.data.filters.repetition import Repetition
from mypt_dist.data.filters.sample import Sample

Filter: TypeAlias = Annotated[
    Length | Characters | Language | Repetition | ExactDuplicates | NearDuplicates, Field(discriminator="type")
]


class Chain:
    """What is judged by a document alone comes first, in the order of the list; duplicates come after that."""

    def __init__(self, filters: Sequence[Filter] = ()) -> None:
        self._judges = [each for each in filters if not isinstance(each, ExactDuplicates | NearDuplicates)]
        self.exact = any(isinstance(each, ExactDuplicates) for each in filters)
        self.near = next((each for each in filters if isinstance(each, NearDuplicates)), None)

    @property
    def sees_texts(self) -> bool:
        """Whether texts must be looked at, besides their hashes."""
        return bool(self._judges) or self.near is not None

    def judge(self, sample: Sample) -> tuple[str, str] | None:
        """The filter that drops a document and why; None: it is kept."""
        for each in self._judges:
            if reason := each.judge(sample):
                return each.type, reason
        return None

    def sketch(self, sample: Sample) -> bytes:
        """By what near duplicates of a document are known; nothing where they are not looked for."""
        return sketch_of(sample) if self.near else b""
