"""A dataset of conversations back to the lines it was made of."""

import heapq
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mypt_dist.chat import Renderer
from mypt_dist.data.chat.records import Record, put_back, read_records, spelled_record
from mypt_dist.data.durable import sync_folder
from mypt_dist.data.manifest import SPLITS, DatasetManifest
from mypt_dist.data.prepare.writer import writing
from mypt_dist.data.progress import BytesDone, Progress
from mypt_dist.data.stream import TokenStream
from mypt_dist.errors import ConfigError, DataError


def export_conversations(folder: Path, out: Path, progress: Progress | None = None) -> int:
    """Write the conversations of the dataset in ``folder`` to the file ``out``, in the order in which they were read.

    Every line has the JSON value that it had, keys in their order; a line that Python's `json.dumps` wrote without
    escapes comes back byte for byte. Returns how many there are. Raises `ConfigError` for a dataset that was not made
    of conversations and for a file that exists, `DataError` for damage.
    """
    manifest = DatasetManifest.read(folder)
    if out.exists():
        raise ConfigError(f"{out} exists already: choose another file")
    aside, count = out.with_name(f".{out.name}.new"), 0
    try:
        with writing(aside), aside.open("w", encoding="utf-8") as file:
            for value in conversations(folder, manifest, progress):
                file.write(json.dumps(value, ensure_ascii=False) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        with writing(out):
            aside.replace(out)
            sync_folder(out.parent)
    finally:
        aside.unlink(missing_ok=True)
    return count


def conversations(
    folder: Path, manifest: DatasetManifest, progress: Progress | None = None
) -> Iterator[dict[str, Any]]:
    """The JSON values that a dataset was made of, in their order. Raises `ConfigError`, `DataError`."""
    chat = manifest.conversations
    if chat is None or manifest.row_length is None:
        raise ConfigError(f"{folder} was not made by mypt data prepare-chat: it does not know its conversations")
    renderer = Renderer(manifest.load_tokenizer(), chat.template)
    done = BytesDone(sum(entry.bytes for entry in chat.records.values()), progress)
    streams = {name: TokenStream.open(folder, manifest, name) for name in SPLITS}
    files = {name: folder / entry.file for name, entry in chat.records.items()}
    for record, name in heapq.merge(*(_named(path, split) for split, path in files.items()), key=_number):
        done.add(len(spelled_record(record)))
        ids = np.empty((1, record.tokens), np.int64)
        begin = record.row * manifest.row_length + record.begin
        if begin + record.tokens > len(streams[name]):
            raise DataError(f"{folder}/{name}: conversation {record.number} lies outside the tokens")
        streams[name].gather([begin], ids)
        yield put_back(record, ids[0], renderer)


def _named(path: Path, name: str) -> Iterator[tuple[Record, str]]:
    return ((record, name) for record in read_records(path))


def _number(pair: tuple[Record, str]) -> int:
    return pair[0].number
