"""Sources become datasets: each one of its own, and beside them the mixture file that a run reads."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mypt_dist.config import inside
from mypt_dist.data import durable
from mypt_dist.data.filters import Filter
from mypt_dist.data.manifest import FILE, DatasetManifest
from mypt_dist.data.prepare.inputs import InputFile, size_of
from mypt_dist.data.prepare.journal import REJECTS, Journal
from mypt_dist.data.prepare.settings import PrepareSettings
from mypt_dist.data.prepare.staging import publish, remove_leftovers, staged
from mypt_dist.data.prepare.text import Inputs, Job, given_tokenizer, tell
from mypt_dist.data.prepare.writer import writing
from mypt_dist.data.progress import Progress
from mypt_dist.data.sources.fetching import fetched_texts, silent
from mypt_dist.data.sources.layout import folder_of
from mypt_dist.data.sources.prepared import PreparedSource, Record
from mypt_dist.data.sources.read import Sources
from mypt_dist.data.sources.texts import archives_of
from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers import KINDS

LOCK = ".preparing.lock"
log = logging.getLogger(__name__)

ShowProgress = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """What is prepared, and where it is."""

    fetched: Path | None = None
    """Where `fetch` has put downloads and what was in archives."""
    only: Sequence[str] = ()
    """Keys; none means all whose weight is not 0."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Instead of those of the file."""
    rejects: Path | None = None
    """A folder for what is left out: a file for each source, ``KEY.jsonl``."""


def prepare_sources(
    sources: Sources,
    out: Path,
    settings: PrepareSettings | None = None,
    options: PrepareOptions | None = None,
    show: ShowProgress = silent,
) -> dict[str, DatasetManifest]:
    """Make a dataset ``out/KEY`` of each source and ``out/mixture.json`` of all that are finished; by key.

    A source that is finished, from the same files with the same settings, stays as it is; one that was broken off is
    gone on with. Raises `ConfigError` for what cannot be meant, before anything is written; else as
    `mypt_dist.data.prepare.prepare`, and then the sources before are finished.
    """
    settings, options = settings or PrepareSettings(), options or PrepareOptions()
    if settings.tokenizer == "char":
        raise ConfigError(
            "char learns its characters from one dataset, a mixture needs one tokenizer: gpt2, byte, or a file of "
            "mypt tokenizer train"
        )
    weights = sources.chosen(options.only, options.weights)
    names = [key.lower() for key in sources.file.sources]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{sources.path}: two keys are {twice!r} in small letters, as a run would call them")
    tasks = [_task(sources, key, out, settings, options) for key in weights]
    with durable.only_process(out, LOCK, "preparing sources in"):
        record = Record.read(out)
        due = [task for task in tasks if not task.is_finished(record)]
        with show("tokenizing") as progress:
            _prepare(due, record, progress)
        record.write_mixture({**sources.file.weights(), **options.weights})
    return {task.key: DatasetManifest.read(task.folder) for task in tasks}


@dataclass(frozen=True, slots=True)
class _Task:
    """A source to prepare."""

    key: str
    folder: Path
    files: list[InputFile]
    name: str
    """Of what is read, for the manifest."""
    settings: PrepareSettings
    filters: tuple[Filter, ...]
    rejects: Path | None
    identity: str
    """Of the files and settings."""

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def is_finished(self, record: Record) -> bool:
        """Whether there is nothing to do. Raises `ConfigError` where something else stands in the place."""
        if not (self.folder / FILE).exists():
            return False
        known = record.sources.get(self.key)
        is_same = known is not None and known == PreparedSource(
            identity=self.identity, fingerprint=DatasetManifest.read(self.folder).fingerprint
        )
        has_rejects = self.rejects is None or self.rejects.exists()
        if is_same and has_rejects:
            log.info("%s is finished already", self.folder)
            return True
        if not self.settings.overwrite:
            what = "without what was left out" if is_same else "from other files or with other settings"
            raise ConfigError(f"{self.folder} was prepared {what}: choose another folder, or say --overwrite")
        return False

    def prepare(self, record: Record, progress: Progress) -> None:
        """Make the dataset."""
        job = Job(Inputs([self.name], lambda: self.files), self.settings, progress, filters=self.filters)
        with staged(self.folder, overwrite=self.settings.overwrite, goes_on=True) as staging:
            journal = Journal(
                staging,
                self.identity,
                with_rejects=self.rejects is not None,
                with_sketches=job.seeks_near_duplicates,
            )
            if journal.position() is None:
                remove_leftovers(staging)
            try:
                report = job.run(staging, journal)
            finally:
                journal.close()
            if self.rejects:
                _copy(staging / REJECTS, self.rejects)
            record.add(self.key, PreparedSource(identity=self.identity, fingerprint=report.manifest.fingerprint))
            publish(staging, report.manifest)
        tell(report)


def _prepare(tasks: Sequence[_Task], record: Record, progress: Progress) -> None:
    total, done = sum(task.size for task in tasks), 0

    def advance(read: int, _total: int) -> None:
        progress(done + read, total)

    for task in tasks:
        task.prepare(record, advance)
        done += task.size


def _task(sources: Sources, key: str, out: Path, settings: PrepareSettings, options: PrepareOptions) -> _Task:
    """Raises `ConfigError` where the source cannot be prepared."""
    source = sources.file.sources[key]
    filters = sources.file.filters if source.filters is None else source.filters
    files = _files(sources, key, options.fetched)
    rejects = options.rejects and inside(options.rejects, f"{key}.jsonl")
    identity = _identity(files, settings, filters)
    name = f"{key} of {sources.path.name}"
    return _Task(key, inside(out, key), files, name, settings, filters, rejects, identity)


def _files(sources: Sources, key: str, fetched: Path | None) -> list[InputFile]:
    source, nowhere = sources.file.sources[key], folder_of(Path(), sources.file.folder_name(key))
    if fetched is None and (source.urls or archives_of(source, nowhere, sources.path.parent)):
        raise ConfigError(
            f"{key} is downloaded or unpacked: say where that was done with --fetched DIR "
            f"(mypt data fetch {sources.path} --out DIR)"
        )
    texts = fetched_texts(sources, fetched or Path(), key)
    packed = [text.path for text in texts if text.packing and text.format.type == "parquet"]
    if packed:
        raise ConfigError(f"{packed[0]} is a packed table: Parquet packs its columns itself, unpack the file")
    return [InputFile(text.path, 0, size_of(text.path), text.packing, text.format) for text in texts]


def _identity(files: Sequence[InputFile], settings: PrepareSettings, filters: Sequence[Filter]) -> str:
    """A hash of everything that decides the result, but for what is in files of the same name, size and date."""
    content: dict[str, Any] = {
        "tokenizer": _known_by(settings.tokenizer),
        "settings": settings.content(),
        "filters": [each.model_dump(mode="json") for each in filters],
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for file in files:
        dated = [file.path.name, file.size, _changed(file.path), file.packing, file.format.model_dump(mode="json")]
        digest.update(json.dumps(dated, sort_keys=True).encode())
    return digest.hexdigest()


def _known_by(tokenizer: str) -> str:
    """Its name, or of a file its content: the same name may come to mean another."""
    chosen = None if tokenizer in KINDS else given_tokenizer(tokenizer)
    return tokenizer if chosen is None else chosen.fingerprint


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _copy(source: Path, target: Path) -> None:
    """Whole or not at all, also onto another disk."""
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.new")
        shutil.copyfile(source, aside)
        durable.sync_file(aside)
        aside.replace(target)
        durable.sync_folder(target.parent)
