"""Documents of other characters than text is made of."""

import re
from typing import Annotated, Literal

from pydantic import Field

from mypt_dist.config import Config
from mypt_dist.data.filters.sample import Sample

Share = Annotated[float, Field(ge=0, le=1)]
_BROKEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")


class Characters(Config):
    """Drops tables of numbers, ASCII art, broken encodings."""

    type: Literal["characters"] = "characters"
    min_letters: Share = 0.6
    """Share of letters, of any script, among all characters but white space."""
    max_control: Share = 0.001
    """Share of control characters, line breaks and tabs aside, and of U+FFFD, which stands for unreadable bytes."""

    def judge(self, sample: Sample) -> str | None:
        """Why the document is dropped; None: it is kept."""
        visible = sum(map(len, sample.head.split()))
        letters = sum(map(str.isalpha, sample.head))
        if letters < self.min_letters * visible:
            return f"{letters / visible:.0%} letters, fewer than {self.min_letters:.0%}"
        broken = len(_BROKEN.findall(sample.head))
        if broken > self.max_control * len(sample.head):
            return f"{broken / len(sample.head):.2%} control characters, more than {self.max_control:.2%}"
        return None
