"""The texts of files, one after another, for whoever wants no tokens of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mypt_dist.data.formats import JsonLines
from mypt_dist.data.prepare.documents import Document
from mypt_dist.data.prepare.inputs import find_files
from mypt_dist.data.prepare.reading import Reader
from mypt_dist.data.prepare.work import Chunk, Outcome, Problems, Reading, perform
from mypt_dist.data.progress import BytesDone, Progress
from mypt_dist.tokenizers.ranked import safe_cut


@dataclass
class Corpus:
    """What `mypt_dist.data.prepare.text.prepare` would turn into tokens, as texts."""

    inputs: Sequence[str | Path]
    """Files, folders and globs, or ``stdlib``: see `find_files`."""
    text_field: str = "text"
    problems: Problems = field(default_factory=Problems)
    """What was left out so far."""

    def texts(self, progress: Progress | None = None) -> Iterator[str]:
        """Documents, large ones in parts; cut where GPT-2's pattern cuts, too. In memory is one at a time.

        Raises `ConfigError` for an input that does not exist or holds no text.
        """
        lines = JsonLines(field=self.text_field)
        done = BytesDone(sum(file.size for file in find_files(self.inputs, lines)), progress)
        reading = Reading("skip")
        for work in Reader(safe_cut, reading).work(find_files(self.inputs, lines)):
            taken = _Texts()
            outcome = perform(work, reading, taken)
            self.problems.merge(outcome.problems)
            yield from taken.texts
            done.add(work.origin.read)


@dataclass
class _Texts:
    texts: list[str] = field(default_factory=list)

    def document(self, document: Document, number: int | None, into: Outcome) -> None:
        self.texts.append(document.text)

    def chunk(self, chunk: Chunk, into: Outcome) -> None:
        self.texts.append(chunk.text)
