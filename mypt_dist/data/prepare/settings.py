"""What may be chosen when text is turned into a dataset?"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from mypt_dist.config import Config
from mypt_dist.config.problems import near_miss
from mypt_dist.data.formats import FIELD_PATH
from mypt_dist.tokenizers import KINDS


def _known(name: str) -> str:
    if name not in KINDS and not Path(name).is_file():
        raise ValueError(
            f"no such tokenizer{near_miss(name, KINDS)} (known: {', '.join(KINDS)}, or a JSON file with its state), "
            f"got {name!r}"
        )
    return name


TokenizerName = Annotated[str, AfterValidator(_known)]


class PrepareSettings(Config):
    """Choices of `mypt_dist.data.prepare.prepare`. Only those in `content` decide what is written."""

    tokenizer: TokenizerName = "gpt2"
    """A kind, or the JSON file with the state of one: ``tokenizer.json`` of a checkpoint is such a file."""
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
