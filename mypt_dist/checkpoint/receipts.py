"""What every rank says it wrote, and what that makes together."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from mypt_dist.checkpoint.manifest import FileEntry, SegmentEntry, TensorEntry
from mypt_dist.checkpoint.segments import Segment, tiling_problem
from mypt_dist.checkpoint.tensor_file import Part
from mypt_dist.config import Config
from mypt_dist.world import JSON


class Receipt(Config):
    """What one rank wrote, or is about to write. Travels between ranks as JSON."""

    files: dict[str, FileEntry]
    """Files by name, with the hash computed while writing."""
    tensors: dict[str, TensorEntry]
    """This rank's pieces of each tensor; none for a tensor without elements."""

    def to_json(self) -> JSON:
        """As `World.all_gather` takes it."""
        return cast("JSON", self.model_dump(mode="json"))


@dataclass(frozen=True, slots=True)
class Merged:
    """All that all ranks wrote."""

    files: dict[str, FileEntry]
    tensors: dict[str, TensorEntry]


def tensor_map(segments: Iterable[Segment], parts: Iterable[Part]) -> dict[str, TensorEntry]:
    """Where a rank's ``segments`` are once its ``parts`` are written. Raises ValueError when they contradict."""
    places = {(s.name, s.start): part.file for part in parts for s in part.segments}
    return _joined((s.name, _entry(s, places.get((s.name, s.start)))) for s in segments)


def merge(receipts: Iterable[Receipt]) -> Merged:
    """Raises ValueError when two ranks wrote one file, or when the pieces of a tensor do not make it whole."""
    files: dict[str, FileEntry] = {}
    pieces: list[tuple[str, TensorEntry]] = []
    for receipt in receipts:
        twice = files.keys() & receipt.files.keys()
        if twice:
            raise ValueError(f"two ranks wrote {min(twice)}")
        files |= receipt.files
        pieces += receipt.tensors.items()
    tensors = _joined(pieces)
    for name, tensor in tensors.items():
        problem = tiling_problem(((piece.start, piece.length) for piece in tensor.segments), tensor.elements)
        if problem:
            raise ValueError(f"tensor {name}: {problem}")
    return Merged(dict(sorted(files.items())), tensors)


def _entry(segment: Segment, file: str | None) -> TensorEntry:
    piece = [SegmentEntry(file=file, key=segment.key, start=segment.start, length=segment.length)] if file else []
    return TensorEntry(shape=segment.shape, dtype=segment.dtype, segments=tuple(piece))


def _joined(entries: Iterable[tuple[str, TensorEntry]]) -> dict[str, TensorEntry]:
    shapes: dict[str, TensorEntry] = {}
    pieces: dict[str, list[SegmentEntry]] = {}
    for name, entry in entries:
        known = shapes.setdefault(name, entry)
        if (known.shape, known.dtype) != (entry.shape, entry.dtype):
            raise ValueError(f"tensor {name} is {known.dtype} {known.shape} and also {entry.dtype} {entry.shape}")
        pieces.setdefault(name, []).extend(entry.segments)
    return {
        name: shapes[name].model_copy(update={"segments": tuple(sorted(pieces[name], key=lambda piece: piece.start))})
        for name in sorted(pieces)
    }
