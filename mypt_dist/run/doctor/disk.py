"""The disk of a run's folder: kind, room, speed, and whether it keeps what the commit of a checkpoint relies on."""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from mypt_dist.checkpoint.files import Disk, Files
from mypt_dist.run.doctor.check import LOADING_S, Check, Result, fail, ok, skip, warn

MB = 1_000_000

VOLATILE = {"tmpfs", "ramfs", "devtmpfs"}
LAYERED = {"overlay", "aufs"}
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "afs", "fuse.sshfs"}

SLOW = 20.0
"""MB/s. Below it the checkpoint of even a 124M model takes more than a minute."""

PROBE_BYTES = 8 * MB
PROBE_S = 3.0
"""Written for at most so long."""

INODES = 10_000
"""A checkpoint takes some files for each rank; thousands of saves of a large world must fit."""


def file_system(kind: str | None) -> Result:
    """``kind`` as in /proc/mounts."""
    if kind is None:
        return skip("the system does not tell")
    if kind in VOLATILE:
        return warn(f"{kind}: gone at the next reboot", "set out= to a disk")
    if kind in LAYERED:
        return warn(f"{kind}: gone with the container", "mount a volume and set out= to a folder in it")
    if kind in NETWORK:
        return warn(
            f"{kind}: a network file system", "be sure that it is mounted hard and synchronous; see disk speed below"
        )
    return ok(kind)


def room(free: int, checkpoint: int | None, kept: int) -> Result:
    """``free`` bytes, bytes of one ``checkpoint`` if known, and how many are kept. One more is written meanwhile."""
    text = f"{free / 2**30:,.1f} GiB free"
    if checkpoint is None:
        return ok(text) if free > 2**30 else warn(text, "name a run file with --run to know how much it needs")
    need = f"{text}, a checkpoint is {checkpoint / 2**30:,.2f} GiB"
    if free < 2 * checkpoint:
        return fail(f"{need}: there is no room for two", "free some, or set out= to another disk")
    if free < (kept + 1) * checkpoint:
        return warn(
            f"{need}: {kept} are kept beside the one being written", "free some, or lower checkpoints.keep_last"
        )
    return ok(need)


def inodes(free: int, total: int) -> Result:
    """As of statvfs. A total of 0 means that the file system does not count them."""
    if not total:
        return skip("the file system does not count them")
    if free < INODES // 100:
        return fail(f"{free:,} free", "remove small files there, or set out= to another disk")
    return ok(f"{free:,} free") if free >= INODES else warn(f"{free:,} free", "remove small files there")


def speed(num_bytes: int, seconds: float, checkpoint: int | None) -> Result:
    """``num_bytes`` were on the disk after ``seconds``."""
    rate = num_bytes / MB / max(seconds, 1e-9)
    text = f"{rate:,.0f} MB/s, flushed"
    if checkpoint is not None:
        text += f": {checkpoint / MB / rate:,.1f} s for a checkpoint by one rank"
    if rate < SLOW:
        return warn(text, "set out= to a faster disk, or raise train.save_every")
    return ok(text)


def promises(folder: Path, files: Files) -> Result:
    """Try in ``folder``, which is empty, what the commit of a checkpoint relies on."""
    broken = [*_exclusive(folder, files), *_renames(folder, files)]
    if broken:
        return fail("; ".join(broken), "set out= to a local disk, or to a network disk that keeps POSIX rules")
    return ok("exclusive create, whole rename and flush of a folder work")


def writable(folder: Path) -> Result:
    """Whether files can be made in ``folder``."""
    try:
        with probe_folder(folder):
            return ok(f"{folder}")
    except OSError as error:
        return fail(f"{folder}: {error.strerror}", "set out= to a folder that you may write to")


def disk_checks(out: Path, checkpoint: Callable[[], int | None], kept: int) -> list[Check]:
    """Of the run's folder ``out``, which need not exist yet; bytes of one ``checkpoint`` if known."""
    # Asked for inside the checks: even a look at a dead network disk can hang.
    base = cache(lambda: existing(out))

    def measured() -> Result:
        size = checkpoint()
        with probe_folder(base()) as folder:
            return speed(*_write(folder / "bytes"), size)

    def tried() -> Result:
        with probe_folder(base()) as folder:
            return promises(folder, Files())

    def counted() -> Result:
        status = os.statvfs(base())
        return inodes(status.f_favail, status.f_files)

    def roomy() -> Result:
        return room(Files().free_bytes(base()), checkpoint(), kept)

    return [
        Check("run folder", "a run that fails at its first save", lambda: writable(base())),
        Check("file system", "checkpoints that are gone when they are needed", lambda: file_system(kind_of(base()))),
        Check("disk room", "'No space left on device' in the middle of a save", roomy, LOADING_S),
        Check("inodes", "the same, with free bytes left", counted),
        Check("disk speed", "saves that take longer than the steps between them", measured, LOADING_S),
        Check("disk promises", "checkpoints that are neither whole nor absent", tried),
    ]


def existing(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def kind_of(path: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """The type of the file system that ``path`` is on."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return None
    best, kind = -1, None
    for line in lines:
        _, point, name, *_ = line.split()
        mounted = Path(point.replace("\\040", " "))
        # Of several mounts at one point the last one counts.
        if path.resolve().is_relative_to(mounted) and len(mounted.parts) >= best:
            best, kind = len(mounted.parts), name
    return kind


@contextmanager
def probe_folder(base: Path) -> Iterator[Path]:
    """A new folder in ``base``, removed afterwards with all that is in it. Raises OSError."""
    folder = base / f".mypt-doctor-{secrets.token_hex(6)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        with suppress(OSError):
            Disk().remove_tree(folder)


def _write(path: Path) -> tuple[int, float]:
    """Bytes written and flushed, and seconds."""
    piece, written, begin = os.urandom(MB), 0, time.monotonic()
    with path.open("xb") as file:
        while written < PROBE_BYTES and time.monotonic() - begin < PROBE_S:
            written += file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return written, time.monotonic() - begin


def _exclusive(folder: Path, files: Files) -> Iterator[str]:
    path = folder / "once"
    files.close(files.create(path))
    try:
        files.close(files.create(path))
    except FileExistsError:
        return
    yield "two processes can create the same file (O_EXCL has no effect): two runs could take one lock"


def _renames(folder: Path, files: Files) -> Iterator[str]:
    old, full = folder / "step.partial", folder / "step"
    for made in (old, full):
        files.make_folder(made)
        files.close(files.create(made / "file"))
    try:
        files.rename(old, full)
        yield "a rename replaces a folder that holds files: a save could swallow another"
    except OSError:
        pass
    try:
        if files.names(old):
            files.rename(old, folder / "step-2")
        files.sync_folder(folder)
        if "step-2" not in files.names(folder):
            yield "a renamed folder does not appear under its new name"
    except OSError as error:
        yield f"a folder cannot be renamed and flushed: {error.strerror}"
