"""Look around before a run: its folder, its datasets, the limits and the environment of this machine. Changes nothing
but for a folder that is made and removed again, to see whether that is possible."""

import os
import resource
import shutil
import socket
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mypt_dist.checkpoint import list_checkpoints
from mypt_dist.checkpoint.layout import MANIFEST
from mypt_dist.checkpoint.lock import LOCK, Record
from mypt_dist.checkpoint.manifest import parse_manifest
from mypt_dist.checkpoint.process import Process, is_alive
from mypt_dist.config import read_json
from mypt_dist.data.manifest import SPLITS, DatasetManifest
from mypt_dist.data.place import DatasetPlace
from mypt_dist.data.remote.folder import read_manifest
from mypt_dist.data.shards import open_shard
from mypt_dist.errors import CheckpointError, ConfigError, DataError, MyptError
from mypt_dist.launch.files import read_launch_file
from mypt_dist.launch.plan import Place
from mypt_dist.run.rehearse.case import SourceSight, Standing, Surroundings

if TYPE_CHECKING:
    from mypt_dist.run.config import RunConfig

LOOK_TOKENS = 1 << 20
"""Tokens that are looked at, at the beginning and the end of each shard; `mypt data verify` reads all."""
LOOK_SHARDS = 64


def observe(config: "RunConfig", target: str, place: Place, environ: Mapping[str, str]) -> Surroundings:
    """What the checks want to know. Takes about a second."""
    sources = {name: see_source(source.path) for name, source in config.data.named_sources().items()}
    vocabulary = next((s.manifest.vocab_size for s in sources.values() if s.manifest), 0)
    size, refusal = _weigh(config, vocabulary)
    address, port = _meeting_point(target, place)
    return Surroundings(
        environ=dict(environ),
        sources=sources,
        unwritable=try_to_write(config.folder),
        lock_holder=lock_holder(config.folder),
        standing=see_checkpoint(config.folder),
        free_bytes=shutil.disk_usage(_existing(config.folder)).free,
        checkpoint_bytes=size,
        optimizer_refusal=refusal,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        port_taken=try_to_listen(port) if port else None,
        unresolved=try_to_resolve(address) if address else None,
    )


def see_source(path: DatasetPlace) -> SourceSight:
    """The dataset at ``path``: manifest, sizes and headers of its shards, and the ids at their ends.

    Behind a URL the manifest alone: shards are not fetched for a look.
    """
    try:
        manifest = read_manifest(path)
    except ConfigError as error:
        return SourceSight(path, missing=str(error))
    except DataError as error:
        return SourceSight(path, damage=str(error))
    if not isinstance(path, Path):
        return SourceSight(path, manifest)
    try:
        return SourceSight(path, manifest, highest_id=_highest(path, manifest))
    except DataError as error:
        return SourceSight(path, manifest, damage=str(error))


def _highest(path: Path, manifest: DatasetManifest) -> int:
    highest = 0
    for entries in (manifest.split(split).shards for split in SPLITS):
        for number, entry in enumerate(entries):
            tokens = open_shard(path, entry, manifest.dtype, manifest.tokenizer.fingerprint)
            if number < LOOK_SHARDS:
                ends = (tokens[:LOOK_TOKENS], tokens[-LOOK_TOKENS:])
                highest = max(highest, *(int(np.max(end, initial=0)) for end in ends))
    return highest


def try_to_write(folder: Path) -> str | None:
    """Why ``folder`` cannot be made or written; null where it can."""
    existing = _existing(folder)
    if not existing.is_dir():
        return f"{existing} is a file"
    probe = existing / f".mypt-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return f"{existing} cannot be written: {error.strerror}"
    return None


def lock_holder(folder: Path) -> str | None:
    """The run that holds the lock of ``folder``. One of this machine that has ended holds nothing any more."""
    try:
        record = Record.model_validate(read_json(folder / LOCK))
    except (MyptError, ValueError):
        return None
    if Process.this().sees(record.process) and not is_alive(record.process):
        return None
    return str(record)


def see_checkpoint(folder: Path) -> Standing | None:
    """The newest checkpoint in ``folder``, by its manifest alone."""
    try:
        newest = [summary for summary in list_checkpoints(folder) if summary.problem is None][-1:]
        if not newest:
            return None
        path = newest[0].folder / MANIFEST
        manifest = parse_manifest(path.read_bytes(), str(path))
    except (CheckpointError, OSError):
        return None
    return Standing(manifest.step, manifest.run, manifest.data, newest[0].bytes, len(manifest.files))


def try_to_listen(port: int) -> str | None:
    """Why ``port`` of this machine cannot be listened on; null where it can."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        # As the launcher does: what an ended run left behind for a minute is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen(1)
        except OSError as error:
            return f"port {port} is taken here: {error.strerror}"
    return None


def try_to_resolve(address: str) -> str | None:
    """Why ``address`` leads nowhere; null where it leads somewhere."""
    try:
        socket.getaddrinfo(address, None)
    except (OSError, UnicodeError) as error:
        return f"{address!r} cannot be resolved here: {getattr(error, 'strerror', None) or error}"
    return None


def has_half_products() -> bool:
    """Whether this processor multiplies matrices in bf16 by instructions of its own."""
    import torch  # noqa: PLC0415 - for this alone

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _meeting_point(target: str, place: Place) -> tuple[str | None, int | None]:
    """Address and port of the launch on the cluster, from the command line or else the launch file."""
    try:
        settings = read_launch_file(target).settings
    except ConfigError:
        return place.address, place.port
    port = settings.main_process_port if place.port is None else place.port
    return place.address or settings.main_process_ip, port


def _weigh(config: "RunConfig", vocabulary: int) -> tuple[int | None, str | None]:
    """Bytes of a checkpoint, and why the optimizer refuses the model."""
    from mypt_dist.run.plan.passes import survey  # noqa: PLC0415 - loads what training loads

    if config.model.vocab_size is None and not vocabulary:
        return None, None
    try:
        parameters, _ = survey(config.with_vocabulary(vocabulary).model, config.optimizer, config.train.freeze)
    except ConfigError as error:
        return None, str(error)
    return sum(p.elements * (4 + p.moments) + p.counters for p in parameters), None


def _existing(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists."""
    return next(p for p in (path, *path.parents) if p.exists())
