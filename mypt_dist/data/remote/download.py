"""One file of a remote dataset, from its store into the cache: whole and right, or not at all."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from mypt_dist.data.remote.cache import Claim
from mypt_dist.data.remote.folder import PIECE, RefusedError, RemoteFolder, StoreError

T = TypeVar("T")

WAITS = (0.2, 1.0, 3.0, 10.0, 30.0)
"""Seconds before a piece is asked for again; the last one for as long as it takes."""


class Entry(Protocol):
    """What a manifest says of a file."""

    @property
    def file(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file, and where to get it."""

    folder: RemoteFolder
    file: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, folder: RemoteFolder, entry: Entry) -> "Wanted":
        """What a manifest lists."""
        return cls(folder, entry.file, entry.bytes, entry.sha256)

    def __str__(self) -> str:
        return f"{self.folder.url}/{self.file}"


class StoppedError(Exception):
    """Nobody wants it any more."""


@dataclass(frozen=True, slots=True)
class Talk:
    """How a download and the rest of the program speak to each other."""

    wait: Callable[[float], bool]
    """Wait so many seconds; whether to stop."""
    arrived: Callable[[int], None]
    """So many bytes more."""
    failed: Callable[[Exception], None]
    """An attempt failed; there will be another."""


def download(wanted: Wanted, claim: Claim, talk: Talk) -> None:
    """Fill ``claim``, which is committed or abandoned then. A store that does not answer is asked again and again.

    Raises `RefusedError` for a file that is not what the manifest says, `StoppedError`, and OSError of the disk.
    """
    try:
        _check_size(wanted, talk)
        if _fill(wanted, claim, talk) != wanted.sha256:
            # Once more, whole: the damage may have happened on the way here.
            found = _fill(wanted, claim, talk)
            if found != wanted.sha256:
                raise RefusedError(
                    f"{wanted} has sha256 {found}, dataset.json says {wanted.sha256}: it was changed or damaged there, "
                    "copy it there again"
                )
        claim.commit()
    finally:
        claim.abandon()


def _check_size(wanted: Wanted, talk: Talk) -> None:
    size = _patiently(lambda: wanted.folder.size(wanted.file), talk)
    if size != wanted.bytes:
        raise RefusedError(
            f"{wanted} has {size:,} bytes, dataset.json says {wanted.bytes:,}: it was changed, or not copied to "
            "its end: copy it there again"
        )


def _fill(wanted: Wanted, claim: Claim, talk: Talk) -> str:
    """The sha256 of what came."""
    digest, done = hashlib.sha256(), 0
    while done < wanted.bytes:
        end = min(done + PIECE, wanted.bytes)
        piece = _patiently(lambda begin=done, end=end: _piece(wanted, begin, end), talk)  # type: ignore[misc]
        claim.write(piece, done)
        digest.update(piece)
        done += len(piece)
        talk.arrived(len(piece))
    return digest.hexdigest()


def _piece(wanted: Wanted, begin: int, end: int) -> bytes:
    piece = wanted.folder.piece(wanted.file, begin, end)
    if not piece:
        raise StoreError(f"{wanted} gave nothing at byte {begin:,}")
    # A server that ignores what part is asked for sends more.
    if len(piece) > end - begin:
        raise RefusedError(f"{wanted}: the server sends whole files only, parts are needed")
    return piece


def _patiently(ask: Callable[[], T], talk: Talk) -> T:
    attempt = 0
    while True:
        if talk.wait(0):
            raise StoppedError
        try:
            return ask()
        except StoreError as error:
            talk.failed(error)
            if talk.wait(WAITS[min(attempt, len(WAITS) - 1)]):
                raise StoppedError from None
            attempt += 1
