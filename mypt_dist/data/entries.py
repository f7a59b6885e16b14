"""What do the parts of ``dataset.json`` look like that say where something is, and where it came from?"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, StrictInt, StrictStr, model_serializer

from mypt_dist.chat.template import Template
from mypt_dist.config import Config, Sha256

Count = Annotated[int, Field(ge=0, strict=True)]
Settings = dict[StrictStr, bool | StrictInt | float | StrictStr | None]
MadeBy = Literal["prepare", "prepare-chat", "convert", "adopt", "append", "merge", "split"]


class Sparse(Config):
    """A schema that grew: what is null is not spelled, so that an older file is spelled, and hashed, as it was."""

    @model_serializer(mode="wrap")
    def _without_null(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        return {key: value for key, value in fields.items() if value is not None}


def _inside(path: str) -> str:
    parts = path.split("/")
    if not path.isprintable() or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{path!r} is no path inside the dataset's folder")
    return path


PathInside = Annotated[str, AfterValidator(_inside)]
"""Of a file in the dataset's folder, with slashes."""


class CompanionEntry(Config):
    """One value for each token of a shard."""

    file: PathInside
    bytes: Count
    sha256: Sha256
    crc32: Annotated[str, Field(pattern=r"^([0-9a-f]{8})+$")]
    """Of each block of 1 MiB, one after the other."""


class ChatCounts(Config):
    """What became of the conversations that were read."""

    bad: Count = 0
    """Lines that hold no conversation. They are in the quarantine file."""
    unlearned: Count = 0
    """Conversations with nothing to learn: in the quarantine file, unless they were allowed."""
    dropped: Count = 0
    """Conversations that are longer than a row, and left out."""
    truncated: Count = 0
    """Conversations that are longer than a row, and cut at its end."""
    padding: Count = 0
    """Tokens that fill rows up."""
    learned: Count = 0
    """Tokens that are learned as targets."""


class ChatEntry(Config):
    """How conversations became the tokens of a dataset, and what of them is no token."""

    template: Template
    weights: dict[StrictStr, Annotated[float, Field(ge=0)]] = {}
    """Of the loss, by kind of token; 1 for kinds that are not here."""
    counts: ChatCounts
    records: dict[Literal["train", "val"], CompanionEntry]
    """For each split the file of what its conversations have besides their texts, one a line."""


class SourceEntry(Sparse):
    """One input as the user named it, and what came of it."""

    path: StrictStr
    files: Count
    documents: Count
    bytes: Count
    """UTF-8 text that was taken from it."""
    sha256: Sha256 | None = None
    """Identity of what was taken. Of text: of the hashes of its documents, in order. Of the dataset of another program:
    of the lines ``sha256sum`` prints for its files."""


class Parent(Config):
    """A dataset that another one was made of."""

    path: StrictStr
    """Where it was then."""
    fingerprint: Sha256


class Ancestor(Config):
    """How one dataset was made."""

    made_by: MadeBy
    tools: dict[StrictStr, StrictStr]
    """Names and versions of the programs. Empty: it was made before they were recorded."""
    settings: Settings
    sources: tuple[SourceEntry, ...]
    parents: tuple[Parent, ...] = ()


class Lineage(Config):
    """What made a dataset, and of what. Whole: it can be read when the parents are long gone."""

    made_by: MadeBy
    tools: dict[StrictStr, StrictStr]
    parents: tuple[Parent, ...] = ()
    ancestors: dict[Sha256, Ancestor] = {}
    """Parents and theirs, each once, by fingerprint."""
