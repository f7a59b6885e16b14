"""From a sources file to a folder of text: download, check, unpack."""

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mypt_dist.data import durable
from mypt_dist.data.archives import Archive, ExtractionLimits
from mypt_dist.data.prepare.writer import writing
from mypt_dist.data.progress import BytesDone, Progress
from mypt_dist.data.scan import sha256_of
from mypt_dist.data.sources.addresses import AddressRules, ForbiddenError
from mypt_dist.data.sources.config import Download, Source
from mypt_dist.data.sources.download import MAX_BYTES, Arrived, Downloader, Expected, Wanted
from mypt_dist.data.sources.fetched import FETCHED, Fetched, FetchedSource, read_fetched
from mypt_dist.data.sources.layout import LOCK, SourceFolder, folder_of
from mypt_dist.data.sources.pace import Pace
from mypt_dist.data.sources.pins import Pin, Pins
from mypt_dist.data.sources.read import Sources
from mypt_dist.data.sources.shown import Shown
from mypt_dist.data.sources.texts import TextInput, archives_of, text_inputs
from mypt_dist.data.sources.unpacking import is_unpacked, unpack
from mypt_dist.data.sources.web import Network, Web
from mypt_dist.errors import ConfigError, DataError
from mypt_dist.redact import without_secrets

ShowProgress = Callable[[str], AbstractContextManager[Progress]]


@contextmanager
def silent(_what: str) -> Iterator[Progress]:
    """Shows nothing."""
    yield lambda _done, _total: None


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """What may be chosen for one call."""

    only: Sequence[str] = ()
    """Keys of sources; all with a weight by default."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Other weights than the file's."""
    allow_hosts: Sequence[str] = ()
    """HOST or HOST:PORT that may be asked over http, at any port and at a private address."""
    downloads: bool = True
    """Whether to download what is missing."""
    unpacks: bool = True
    """Whether to unpack archives."""
    parallel: int = 4
    """Downloads at once."""
    max_bytes: int = MAX_BYTES
    """Of one download."""
    limits: ExtractionLimits = field(default_factory=ExtractionLimits)
    pace: Pace = field(default_factory=Pace)
    lock: Path | None = None
    """The lock file, if not beside the sources file."""
    network: Network = field(default_factory=Network)


def fetch(sources: Sources, out: Path, options: FetchOptions | None = None, show: ShowProgress = silent) -> Fetched:
    """Bring everything that ``sources`` names into the folder ``out``. What is there already is not fetched again.

    Raises `ConfigError` for what cannot be meant, before anything is asked or written; `DataError` with a line for
    each file that could not be had or is not what it must be, after all others were fetched; `LockError` where another
    process does the same.
    """
    options = options or FetchOptions()
    chosen = sources.chosen(options.only, options.weights)
    rules = AddressRules(frozenset(sources.file.plain_hosts), frozenset(options.allow_hosts))
    _check_urls(sources, chosen, rules)
    job = _Fetch(sources, out, options, rules, chosen)
    with durable.only_process(out, LOCK, "fetching into"):
        return job.run(show)


def fetched_texts(sources: Sources, out: Path, key: str) -> list[TextInput]:
    """The text of the source ``key`` that was fetched into ``out``. Raises `ConfigError` where there is none."""
    folder = folder_of(out, sources.file.folder_name(key))
    return text_inputs(sources.file.sources[key], folder, sources.path.parent)


def _check_urls(sources: Sources, chosen: Mapping[str, float], rules: AddressRules) -> None:
    problems = []
    for key in chosen:
        for index, download in enumerate(sources.file.sources[key].urls):
            try:
                rules.target(download.url)
            except ForbiddenError as error:
                problems.append(f"  sources.{key}.urls.{index}: {error}")
    if problems:
        raise ConfigError("\n".join([f"{sources.path} asks for what is not allowed:", *problems]))


@dataclass(frozen=True, slots=True)
class _Place:
    """A source and its folder."""

    key: str
    source: Source
    folder: SourceFolder
    archives: list[Archive]

    def pin_name(self, file: str) -> str:
        return f"{self.key}/{file}"

    @property
    def packed(self) -> list[Path]:
        """The files of its archives."""
        return [path for archive in self.archives for path in archive.paths]


class _Fetch:
    def __init__(
        self, sources: Sources, out: Path, options: FetchOptions, rules: AddressRules, chosen: Mapping[str, float]
    ) -> None:
        self._sources, self._out, self._options, self._chosen = sources, out, options, chosen
        self._places = [self._place(key) for key in chosen]
        self._pins = Pins(options.lock or sources.lock_path(out))
        self._stop = threading.Event()
        web = Web(rules, options.network, ssl.create_default_context())
        self._downloader = Downloader(web, options.pace, options.max_bytes, self._stop)
        self._problems: list[tuple[str, str]] = []
        """Keys of sources, and what is wrong."""

    def run(self, show: ShowProgress) -> Fetched:
        wanted = [item for place in self._places for item in self._missing(place)]
        if wanted and not self._options.downloads:
            raise DataError("\n".join(["not downloaded yet:", *(f"  {item.wanted.label}" for item in wanted)]))
        if wanted:
            with show("downloading") as progress:
                self._download(wanted, Shown(progress))
        if self._options.unpacks:
            self._unpack(show)
        fetched = self._record()
        if self._problems:
            lines = [f"  {problem}" for _key, problem in self._problems]
            raise DataError("\n".join(["not everything could be fetched:", *lines]))
        return fetched

    def _place(self, key: str) -> _Place:
        source = self._sources.file.sources[key]
        folder = folder_of(self._out, self._sources.file.folder_name(key))
        return _Place(key, source, folder, archives_of(source, folder, self._sources.path.parent))

    # Downloads

    def _missing(self, place: _Place) -> Iterator["_Item"]:
        """What must be downloaded. Archives that were unpacked already may be gone."""
        done = {path.name for path in place.packed} if self._is_unpacked(place) else set()
        for download in place.source.urls:
            if download.file not in done and not self._is_there(place, download):
                yield _Item(place, download, self._wanted(place, download))

    def _is_unpacked(self, place: _Place) -> bool:
        pins = {path.name: self._pins.get(place.pin_name(path.name)) for path in place.packed}
        hashes = {name: pin.sha256 for name, pin in pins.items() if pin}
        declared = {download.file: download.sha256 for download in place.source.urls if download.sha256}
        as_declared = all(declared.get(name, sha256) == sha256 for name, sha256 in hashes.items())
        return bool(pins) and len(hashes) == len(pins) and as_declared and is_unpacked(place.folder, hashes)

    def _is_there(self, place: _Place, download: Download) -> bool:
        path, pin = place.folder.download / download.file, self._pins.get(place.pin_name(download.file))
        if not path.is_file():
            return False
        if pin is None:
            # The lock file was lost. What has its name was whole once.
            pin = _pin(download, Arrived(sha256_of(path), path.stat().st_size))
            self._pins.record(place.pin_name(download.file), pin)
        return path.stat().st_size == pin.bytes and download.sha256 in (None, pin.sha256)

    def _wanted(self, place: _Place, download: Download) -> Wanted:
        name = place.pin_name(download.file)
        pin, expected = self._pins.get(name), None
        if download.sha256:
            expected = Expected(download.sha256, download.bytes, self._sources.path.name)
        elif pin:
            expected = Expected(pin.sha256, pin.bytes, self._pins.path.name)
        elif download.bytes is not None:
            expected = Expected(None, download.bytes, self._sources.path.name)
        return Wanted(name, download.url, place.folder.download / download.file, expected)

    def _download(self, items: Sequence["_Item"], shown: Shown) -> None:
        for item in items:
            with writing(item.wanted.target.parent):
                item.wanted.target.parent.mkdir(parents=True, exist_ok=True)
            shown.expect(item.wanted.label, item.estimate)
        with ThreadPoolExecutor(self._options.parallel, thread_name_prefix="download") as pool:
            futures = {pool.submit(self._download_one, item, shown): item for item in items}
            try:
                for future in as_completed(futures):
                    self._note(futures[future].place.key, future.result)
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _download_one(self, item: "_Item", shown: Shown) -> None:
        label = item.wanted.label
        arrived = self._downloader.download(item.wanted, lambda there, total: shown.tell(label, there, total))
        self._pins.record(label, _pin(item.download, arrived))

    # Archives

    def _unpack(self, show: ShowProgress) -> None:
        failed = {key for key, _problem in self._problems}
        packed = [place for place in self._places if place.archives and place.key not in failed]
        todo = [place for place in packed if place.source.paths or not self._is_unpacked(place)]
        if not todo:
            return
        # Once to be hashed, and once to be unpacked.
        total = 2 * sum(path.stat().st_size for place in todo for path in place.packed)
        with show("unpacking") as progress:
            done = BytesDone(total, lambda done, total: progress(min(done, total), total))
            for place in todo:
                self._note(place.key, partial(self._unpack_one, place, done.add))

    def _unpack_one(self, place: _Place, advance: Callable[[int], None]) -> None:
        hashes = {path.name: sha256_of(path, advance) for path in place.packed}
        for name, sha256 in hashes.items():
            pin = self._pins.get(place.pin_name(name)) if place.source.urls else None
            if pin and pin.sha256 != sha256:
                path = place.folder.download / name
                raise DataError(f"{path} has changed since it was downloaded: remove it to download it again")
        if not is_unpacked(place.folder, hashes):
            unpack(place.archives, hashes, place.folder, self._options.limits, advance)

    def _note(self, key: str, task: Callable[[], object]) -> None:
        """Do ``task``, and remember what is wrong, so that other sources go on."""
        try:
            task()
        except DataError as error:
            self._problems.append((key, str(error)))

    # The record

    def _record(self) -> Fetched:
        failed = {key for key, _problem in self._problems}
        described = {place.key: self._describe(place) for place in self._places if place.key not in failed}
        sources = read_fetched(self._out) | {key: source for key, source in described.items() if source}
        fetched = Fetched(sources_file=self._sources.path.name, sources=sources)
        with writing(self._out / FETCHED):
            durable.replace(self._out / FETCHED, fetched.model_dump_json(indent=2).encode() + b"\n")
        return fetched

    def _describe(self, place: _Place) -> FetchedSource | None:
        pins = {download.file: self._pins.get(place.pin_name(download.file)) for download in place.source.urls}
        texts: list[TextInput] | None = None
        if self._options.unpacks:
            try:
                texts = text_inputs(place.source, place.folder, self._sources.path.parent)
            except ConfigError as error:
                self._problems.append((place.key, f"{place.key}: {error}"))
                return None
        return FetchedSource(
            weight=self._chosen[place.key],
            licence=place.source.licence,
            folder=place.folder.path.name,
            downloads={file: pin for file, pin in pins.items() if pin},
            texts=None if texts is None else len(texts),
            text_bytes=None if texts is None else sum(text.path.stat().st_size for text in texts),
        )


@dataclass(frozen=True, slots=True)
class _Item:
    """A download that is due."""

    place: _Place
    download: Download
    wanted: Wanted

    @property
    def estimate(self) -> int:
        """Bytes, before the server has said how many."""
        if self.wanted.expected and self.wanted.expected.bytes:
            return self.wanted.expected.bytes
        return int((self.place.source.est_size_mb or 0) * 10**6 / len(self.place.source.urls))


def _pin(download: Download, arrived: Arrived) -> Pin:
    return Pin(url=without_secrets(download.url), sha256=arrived.sha256, bytes=arrived.bytes)
