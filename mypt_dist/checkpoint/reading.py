"""How a rank gets the elements it needs out of a checkpoint that any engine wrote at any world size."""

from concurrent.futures import ThreadPoolExecutor
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mypt_dist.checkpoint.files import Disk
from mypt_dist.checkpoint.layout import rank_state_name
from mypt_dist.checkpoint.manifest import Manifest, SegmentEntry, TensorEntry
from mypt_dist.checkpoint.mapped import MappedFiles
from mypt_dist.checkpoint.segments import ITEM_BYTES
from mypt_dist.checkpoint.tensor_file import Stored, read_header
from mypt_dist.checkpoint.verify import patiently
from mypt_dist.config.strict_json import parse_json
from mypt_dist.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SMALL_FILE = 1 << 30
"""Bytes; above it is no tokenizer or random state."""
SHARE = 2 << 20
"""Bytes that are worth a thread of their own to copy."""


class Checkpoint:
    """A verified checkpoint. Files stay mapped until `close`, or the end of a ``with``. For one thread at a time."""

    def __init__(self, folder: Path, manifest: Manifest, disk: Disk, maps: MappedFiles) -> None:
        self.folder = folder
        self.manifest = manifest
        self._disk = disk
        self._maps = maps
        self.passed_over: tuple[int, ...] = ()
        """Steps of newer ones that were corrupt and set aside when this one was chosen."""
        self._headers: dict[str, dict[str, Stored]] = {}
        self._pool = ThreadPoolExecutor(disk.threads, thread_name_prefix="checkpoint")

    def tensor(self, name: str) -> TensorEntry:
        """Shape and type of a tensor. Raises `CheckpointError` when there is none of this name."""
        try:
            return self.manifest.tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.folder} has no tensor {name!r}: it is of another model") from None

    def read_into(self, name: str, start: int, length: int, out: "WriteableBuffer") -> None:
        """Copy elements [``start``, ``start + length``) of a tensor, row-major, to ``out``, which has just their bytes.

        Only the pieces that overlap are read. Raises `CheckpointError` for an unknown tensor or a range outside it,
        ValueError for a buffer of another size.
        """
        tensor = self.tensor(name)
        width = ITEM_BYTES[tensor.dtype]
        if not 0 <= start <= start + length <= tensor.elements:
            raise CheckpointError(
                f"{self.folder}: {name} has {tensor.elements} elements, [{start}, {start + length}) are asked for"
            )
        with memoryview(out) as view:
            if view.nbytes != length * width:
                raise ValueError(f"{name}: {length} {tensor.dtype} need {length * width} bytes, not {view.nbytes}")
            if length:
                self._copy(tensor, start, length, view)

    def rank_state(self, rank: int) -> dict[str, Any]:
        """What a rank put aside for itself, of use only to as many ranks as there were. Raises `CheckpointError`."""
        return self.read_object(rank_state_name(rank))

    def read_object(self, name: str) -> dict[str, Any]:
        """The object in a JSON file of the checkpoint. Raises `CheckpointError`."""
        value = self.read_json(name)
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.folder / name} must hold an object, got {type(value).__name__}")
        return value

    def read_json(self, name: str) -> Any:
        """The value in a JSON file of the checkpoint. Raises `CheckpointError`."""
        try:
            return parse_json(self.read_file(name).decode(), str(self.folder / name))
        except (ConfigError, UnicodeDecodeError) as error:
            raise CheckpointError(str(error)) from None

    def read_file(self, name: str) -> bytes:
        """The content of a file of the checkpoint. Raises `CheckpointError`."""
        if name not in self.manifest.files:
            raise CheckpointError(f"{self.folder} has no file {name}")
        path = self.folder / name
        return patiently(self._disk, str(path), lambda: self._disk.read_bytes(path, SMALL_FILE))

    def close(self) -> None:
        """Give the mapped files back."""
        self._pool.shutdown()
        self._maps.close()

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _copy(self, tensor: TensorEntry, start: int, length: int, view: memoryview) -> None:
        width = ITEM_BYTES[tensor.dtype]
        with view.cast("B") as target:
            for piece in tensor.segments:
                begin, end = max(start, piece.start), min(start + length, piece.start + piece.length)
                if begin < end:
                    with self._bytes(piece, tensor.dtype, begin, end) as source:
                        self._transfer(source, target[(begin - start) * width : (end - start) * width])

    def _transfer(self, source: memoryview, target: memoryview) -> None:
        step = max(SHARE, -(-source.nbytes // self._disk.threads))
        if source.nbytes <= step:
            target[:] = source
            return
        parts = [slice(begin, begin + step) for begin in range(0, source.nbytes, step)]
        for copied in [self._pool.submit(_copy_part, source, target, part) for part in parts]:
            copied.result()

    def _bytes(self, piece: SegmentEntry, dtype: str, begin: int, end: int) -> memoryview:
        path = self.folder / piece.file
        size = self.manifest.files[piece.file].bytes
        mapped = patiently(self._disk, str(path), lambda: self._maps.get(piece.file, size))
        stored, width = self._header(piece.file, mapped).get(piece.key), ITEM_BYTES[dtype]
        if stored is None or stored.dtype != dtype or stored.end - stored.begin != piece.length * width:
            raise CheckpointError(f"{path} does not hold {piece.key} as the manifest says")
        offset = stored.begin - piece.start * width
        with memoryview(mapped) as view:
            return view[offset + begin * width : offset + end * width]

    def _header(self, file: str, mapped: mmap) -> dict[str, Stored]:
        if file not in self._headers:
            try:
                with memoryview(mapped) as view:
                    self._headers[file] = read_header(view)
            except ValueError as error:
                raise CheckpointError(f"{self.folder / file} can not be read: {error}") from None
        return self._headers[file]


def _copy_part(source: memoryview, target: memoryview, part: slice) -> None:
    # NumPy copies without the interpreter lock, memoryview does not.
    np.copyto(np.frombuffer(target[part], np.uint8), np.frombuffer(source[part], np.uint8))
