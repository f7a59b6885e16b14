"""What may a user say of the preparation of conversations?"""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from mypt_dist.chat import FormatName
from mypt_dist.config import Config

TooLong: TypeAlias = Literal["error", "drop", "truncate"]


class ChatSettings(Config):
    """Settings of ``mypt data prepare-chat``."""

    context: int = Field(ge=1)
    """``model.context`` of the runs that will read it: a row has one token more."""
    tokenizer: str = "gpt2"
    """See `named_tokenizer`."""
    template: str = "mypt"
    """A shipped one by name, or a JSON file."""
    add_specials: bool = False
    """Give the tokenizer the control tokens that the template needs and it lacks."""
    format: FormatName | None = None
    """Null: each line is of the format that it looks like."""
    weights: dict[str, float] = {}
    """Of the loss, by kind of token."""
    too_long: TooLong = "error"
    """What becomes of a conversation that is longer than a row. By default nobody loses any without having said so."""
    allow_unlearned: bool = False
    """Keep conversations with nothing to learn."""
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of conversations held out, chosen by their content."""
    quarantine: Path | None = None
    """Where lines go that cannot be used, with the reason. Null: a single one is an error."""
    overwrite: bool = False

    def content(self) -> dict[str, str | int | float | bool | None]:
        """Those that decide what is in the dataset and stand nowhere else in its manifest."""
        return self.model_dump(mode="json", include=_CONTENT)


_CONTENT = {"context", "tokenizer", "format", "too_long", "allow_unlearned", "val_fraction"}
