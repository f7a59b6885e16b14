"""What may be chosen when text is turned into a dataset?"""

import os
from typing import Annotated, Any, Literal

from pydantic import Field

from mypt_dist.config import Config
from mypt_dist.data.formats import FIELD_PATH


class PrepareSettings(Config):
    """Choices of `mypt_dist.data.prepare.prepare`. Only those in `content` decide what is written."""

    tokenizer: Annotated[str, Field(min_length=1)] = "gpt2"
    """``gpt2``, ``byte``, ``char`` (of the characters of the text), or what else
    `mypt_dist.data.foreign.tokenizer.named_tokenizer` knows: a file of ``mypt tokenizer train``, a dataset's folder."""
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of the documents that is held out for validation, chosen by a hash of their content."""
    dedup: bool = False
    """Keep only the first of identical documents. Costs about 100 bytes of memory a document."""
    text_field: Annotated[str, Field(pattern=FIELD_PATH)] = "text"
    """The field of a ``.jsonl`` line that holds its document; a path such as ``article.body`` leads into objects."""
    bad_utf8: Literal["skip", "replace"] = "skip"
    """What happens to a document that is not UTF-8: left out, or taken with U+FFFD for what cannot be read."""
    shard_tokens: Annotated[int, Field(ge=1, le=1 << 40)] = 100_000_000
    """Tokens in every shard but the last."""
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Threads that tokenize; by default as many as the cores this process may use."""
    overwrite: bool = False
    """Replace a finished dataset."""

    def content(self) -> dict[str, Any]:
        """The settings that decide what is written, for the manifest."""
        return self.model_dump(mode="json", exclude={"tokenizer", "workers", "overwrite"})

    def threads(self) -> int:
        """How many threads tokenize."""
        return self.workers or len(os.sched_getaffinity(0))
