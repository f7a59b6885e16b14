"""What is a document in the files of a source?"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from mypt_dist.config import Config

FIELD_PATH = r"^[^.]+(\.[^.]+)*$"


class WholeFile(Config):
    """A file is a document: .txt, .md, code."""

    type: Literal["text"] = "text"


class LineFile(Config):
    """Plain lines, such as OpenSubtitles and the corpora of OPUS have them."""

    type: Literal["lines"] = "lines"
    lines_per_document: int = Field(default=1, ge=1, le=100_000)
    """Lines that are one document together. The last document of a file may have fewer."""
    end_line: str | None = None
    """A line of exactly this text ends a document, and is no part of it: ``""`` where blank lines stand between
    documents, ``"%"`` in files of fortune cookies. Then lines are not counted."""


class JsonLines(Config):
    """A JSON object on each line."""

    type: Literal["jsonl"] = "jsonl"
    field: str = Field(default="text", pattern=FIELD_PATH)
    """Where the text is; a path such as ``article.body`` leads into objects within."""


class TabSeparated(Config):
    """Lines of columns with tabs between them. A line is a document."""

    type: Literal["tsv"] = "tsv"
    column: int = Field(ge=1, le=10_000)
    """Which column holds the text; the first is 1."""
    header: bool = False
    """Whether the first line names the columns."""


class Parquet(Config):
    """A table in a Parquet file. A row is a document."""

    type: Literal["parquet"] = "parquet"
    column: str = Field(default="text", min_length=1)
    """Which column holds the text."""


TextFormat: TypeAlias = Annotated[
    WholeFile | LineFile | JsonLines | TabSeparated | Parquet, Field(discriminator="type")
]

_PROSE = {".txt", ".text", ".md", ".markdown", ".rst"}
_CODE = {
    ".c", ".cc", ".cpp", ".cs", ".css", ".go", ".h", ".hpp", ".html", ".java", ".jl", ".js", ".kt", ".lua", ".m",
    ".php", ".pl", ".py", ".r", ".rb", ".rs", ".scala", ".sh", ".sql", ".swift", ".ts", ".tex",
}  # fmt: skip


def format_of(name: str) -> TextFormat | None:
    """What the ending of a name says: None where it does not say that this is text, or not which column."""
    suffix = "." + name.rpartition(".")[2].lower()
    if suffix in (".jsonl", ".ndjson"):
        return JsonLines()
    if suffix == ".parquet":
        return Parquet()
    return WholeFile() if suffix in _PROSE | _CODE else None
