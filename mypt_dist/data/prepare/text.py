"""How does text become a dataset? Files to work, work to threads, tokens in order to shards, the manifest last."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from mypt_dist.data.entries import SourceEntry
from mypt_dist.data.filters import Chain, ExactDuplicates, Filter
from mypt_dist.data.foreign.tokenizer import named_tokenizer
from mypt_dist.data.formats import JsonLines
from mypt_dist.data.lineage import made
from mypt_dist.data.manifest import Counts, DatasetManifest, Splits
from mypt_dist.data.prepare.assembly import Assembly
from mypt_dist.data.prepare.inputs import InputFile, find_files
from mypt_dist.data.prepare.journal import Journal
from mypt_dist.data.prepare.reading import Reader
from mypt_dist.data.prepare.settings import PrepareSettings
from mypt_dist.data.prepare.staging import publish, staged
from mypt_dist.data.prepare.tail import hold_out_tail
from mypt_dist.data.prepare.threads import in_order
from mypt_dist.data.prepare.work import CollectCharacters, Encode, Outcome, Reading, Task, perform, printable
from mypt_dist.data.prepare.writer import split_writers
from mypt_dist.data.progress import Progress
from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers import Tokenizer, build_tokenizer
from mypt_dist.tokenizers.chunks import SafeCut

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """What was made."""

    manifest: DatasetManifest
    examples: Mapping[str, Sequence[str]]
    """For each kind of problem, the first few files or lines (``path:number``) that have it."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is read."""

    names: Sequence[str]
    """As the user named them."""
    files: Callable[[], Iterable[InputFile]]
    """The same each time. Each file knows which input it belongs to."""


def prepare(
    inputs: Sequence[str | Path],
    out: Path,
    settings: PrepareSettings | None = None,
    progress: Progress | None = None,
    adds_to: Tokenizer | None = None,
) -> PrepareReport:
    """Turn text files into a dataset: token shards of two splits in ``out`` and ``dataset.json``.

    ``inputs``: files, folders and globs of .txt .md .py .jsonl, each also .gz, .bz2, .xz or .zst; or ``stdlib``,
    this Python's own source code. ``adds_to``: the tokenizer of a dataset that the result will be a part of. The same
    inputs and settings give the same bytes, whatever the number of threads. Memory does not grow with the input, but
    for ``settings.dedup``.

    Raises `ConfigError` for inputs that do not exist or hold no text and for a folder that cannot be used,
    `DataError` where a file changes while it is read or the disk refuses, `LockError` where another process prepares
    the same folder. After an error, ``out`` holds no new dataset and what it held before.
    """
    settings = settings or PrepareSettings()
    lines = JsonLines(field=settings.text_field)
    job = Job(Inputs(list(map(printable, inputs)), lambda: find_files(inputs, lines)), settings, progress, adds_to)
    with staged(out, overwrite=job.settings.overwrite) as staging:
        report = job.run(staging)
        publish(staging, report.manifest)
    tell(report)
    return report


class Job:
    """From files to a dataset in a folder of its own."""

    def __init__(
        self,
        inputs: Inputs,
        settings: PrepareSettings,
        progress: Progress | None = None,
        adds_to: Tokenizer | None = None,
        filters: Sequence[Filter] = (),
    ) -> None:
        """``filters``: besides that of ``settings.dedup``."""
        self.settings, self.filters = settings, (*filters, *([ExactDuplicates()] if settings.dedup else []))
        self._chain = Chain(self.filters)
        self._inputs, self._progress = inputs, progress
        # Named wrongly, it is to be known before anything is read.
        self._given = adds_to or given_tokenizer(settings.tokenizer)
        self._adds_to = adds_to
        self._files: Counter[int] = Counter()
        self._done = self._total = 0
        for file in inputs.files():
            self._files[file.argument] += 1
            self._total += file.size
        # The characters of a corpus are known only after a pass of their own.
        self._total *= 2 if self._given is None else 1

    @property
    def seeks_near_duplicates(self) -> bool:
        """Whether documents are known by more than their hash."""
        return self._chain.near is not None

    def run(self, staging: Path, journal: Journal | None = None) -> PrepareReport:
        """Everything but the publication. ``journal``: goes on where it says, with a single input."""
        tokenizer = self._tokenizer()
        splits, assembly = self._encode(tokenizer, staging, journal)
        if not splits.train.tokens + splits.val.tokens:
            raise ConfigError(f"no document to write: {_summary(self._files.total(), assembly.problems.counts)}")
        splits, rule = self._held_out(splits, tokenizer, staging)
        sources = tuple(
            SourceEntry(
                path=given,
                files=self._files[i],
                documents=assembly.taken[i].documents,
                bytes=assembly.taken[i].text_bytes,
                sha256=assembly.taken[i].content.hexdigest(),
            )
            for i, given in enumerate(self._inputs.names)
        )
        documents = splits.train.documents + splits.val.documents
        counts = _counts(self._files.total(), documents, assembly.problems.counts)
        settings = {**self.settings.content(), **self._filter_settings(), "split": rule}
        manifest = DatasetManifest.create(tokenizer, splits, sources, counts, settings)
        return PrepareReport(manifest.with_origin(made("prepare")), assembly.problems.examples)

    def _tokenizer(self) -> Tokenizer:
        if self._given is not None:
            return self._given
        characters: set[str] = set()
        # A text may be cut anywhere when only its characters matter.
        for outcome in self._outcomes(len, CollectCharacters()):
            characters |= outcome.characters
        if not characters:
            raise ConfigError(f"no document to write: {_summary(self._files.total(), {})}")
        return build_tokenizer("char", characters)

    def _filter_settings(self) -> dict[str, str]:
        """For the manifest, whose settings are flat."""
        chosen = [each.model_dump(mode="json") for each in self.filters if not isinstance(each, ExactDuplicates)]
        return {"filters": json.dumps(chosen, sort_keys=True)} if chosen else {}

    def _encode(self, tokenizer: Tokenizer, staging: Path, journal: Journal | None) -> tuple[Splits, Assembly]:
        with split_writers(staging, tokenizer, self.settings.shard_tokens) as writers:
            assembly = Assembly(writers, self.settings.val_fraction, self._chain, journal)
            if journal:
                self._go_on(assembly, journal)
            for outcome in self._outcomes(tokenizer.safe_cut, Encode(tokenizer), assembly.works):
                assembly.take(outcome)
            return Splits(train=writers["train"].close(), val=writers["val"].close()), assembly

    def _go_on(self, assembly: Assembly, journal: Journal) -> None:
        if position := journal.position():
            assembly.go_on(position, journal)
            self._done = position.read
        journal.open(position)

    def _outcomes(self, safe_cut: SafeCut, task: Task, skip: int = 0) -> Iterator[Outcome]:
        """``skip``: pieces of work that are not done, only read."""
        reading = Reading(self.settings.bad_utf8, self._chain)
        work = islice(Reader(safe_cut, reading).work(self._inputs.files()), skip, None)
        for outcome in in_order(partial(perform, reading=reading, task=task), work, self.settings.threads()):
            yield outcome
            self._done += outcome.origin.read
            if self._progress:
                self._progress(self._done, self._total)

    def _held_out(self, splits: Splits, tokenizer: Tokenizer, staging: Path) -> tuple[Splits, str]:
        """The splits, made otherwise where the hash leaves one of them empty."""
        # What is added to a dataset need not have both: that has them already.
        if not self.settings.val_fraction or self._adds_to is not None or (splits.train.tokens and splits.val.tokens):
            if splits.val.tokens > splits.train.tokens:
                log.warning(
                    "validation got %s tokens and training %s: there are few documents, and a large one was held out",
                    f"{splits.val.tokens:,}",
                    f"{splits.train.tokens:,}",
                )
            return splits, "hash"
        whole = splits.train if splits.train.tokens else splits.val
        log.warning(
            "the hash of %d documents leaves none for %s: the last %g %% of all tokens are held out instead",
            whole.documents,
            "validation" if splits.train.tokens else "training",
            100 * self.settings.val_fraction,
        )
        return hold_out_tail(staging, whole, tokenizer, self.settings), "tail"


def given_tokenizer(name: str) -> Tokenizer | None:
    """The tokenizer of this name; None for that of the corpus' own characters. Raises `ConfigError`."""
    return None if name == "char" else named_tokenizer(name).tokenizer


def _counts(files: int, documents: int, problems: Mapping[str, int]) -> Counts:
    own = {kind: count for kind, count in problems.items() if kind in Counts.model_fields}
    filtered = {kind: count for kind, count in sorted(problems.items()) if kind not in own}
    return Counts.model_validate({"files": files, "documents": documents, **own, "filtered": filtered or None})


def tell(report: PrepareReport) -> None:
    """Log what was left out."""
    counts = report.manifest.counts.left_out()
    for kind, names in report.examples.items():
        count = counts[kind]
        more = f" and {count - len(names):,} more" if count > len(names) else ""
        log.warning("%s %s: %s%s", f"{count:,}", kind.replace("_", " "), ", ".join(names), more)


def _summary(files: int, problems: Mapping[str, int]) -> str:
    left_out = [f"{count:,} {kind.replace('_', ' ')}" for kind, count in problems.items()]
    return f"{files:,} files were read" + (f" ({', '.join(left_out)})" if left_out else " and hold no text")
