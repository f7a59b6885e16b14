"""Documents that are too short or too long."""

from typing import Literal, Self

from pydantic import Field, model_validator

from mypt_dist.config import Config
from mypt_dist.data.filters.sample import Sample


class Length(Config):
    """Drops what is too short or too long."""

    type: Literal["length"] = "length"
    min_characters: int = Field(default=1, ge=1)
    """Of the whole document."""
    max_characters: int | None = Field(default=None, ge=1)
    """Null: any number."""

    @model_validator(mode="after")
    def _some_length_is_left(self) -> Self:
        if self.max_characters is not None and self.max_characters < self.min_characters:
            raise ValueError("max_characters is below min_characters: nothing could be kept")
        return self

    def judge(self, sample: Sample) -> str | None:
        """Why the document is dropped; None: it is kept."""
        if sample.characters < self.min_characters:
            return f"{sample.characters} characters, fewer than {self.min_characters}"
        if self.max_characters is not None and sample.characters > self.max_characters:
            return f"{sample.characters} characters, more than {self.max_characters}"
        return None
