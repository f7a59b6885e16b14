"""How are tensors dealt out to safetensors files of a bounded size, as transformers names and indexes them?"""

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mypt_dist.checkpoint.writing import FileJob
from mypt_dist.interchange.hf.elements import Elements

INDEX = "model.safetensors.index.json"
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Shard:
    """One safetensors file: its name and the tensors in it, in order."""

    file: str
    tensors: tuple[Elements, ...]

    @property
    def header(self) -> bytes:
        """Length and JSON, padded to a multiple of eight bytes."""
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for tensor in self.tensors:
            match, end = tensor.match, offset + tensor.bytes
            entries[match.theirs] = {
                "dtype": tensor.dtype, "shape": list(match.shape), "data_offsets": [offset, end],
            }  # fmt: skip
            offset = end
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _LENGTH.size)
        return _LENGTH.pack(len(text)) + text

    def job(self, wrote: Callable[[int], None]) -> FileJob:
        """The file, to be written. ``wrote`` is told of every piece's bytes."""
        header = self.header

        def pieces() -> Iterator[memoryview]:
            yield memoryview(header)
            for tensor in self.tensors:
                for piece in tensor.pieces():
                    yield piece
                    wrote(piece.nbytes)

        return FileJob(self.file, len(header) + sum(tensor.bytes for tensor in self.tensors), pieces)


def plan_shards(tensors: Sequence[Elements], shard_bytes: int) -> list[Shard]:
    """Files of at most ``shard_bytes``, but for a tensor that is larger by itself."""
    groups: list[list[Elements]] = [[]]
    filled = 0
    for tensor in tensors:
        if groups[-1] and filled + tensor.bytes > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor.bytes
    if len(groups) == 1:
        return [Shard("model.safetensors", tuple(groups[0]))]
    count = len(groups)
    return [
        Shard(f"model-{number:05d}-of-{count:05d}.safetensors", tuple(group)) for number, group in enumerate(groups, 1)
    ]


def index_of(shards: Sequence[Shard]) -> bytes | None:
    """Content of `INDEX`: which tensor is in which file. None for a single file, which has none."""
    if len(shards) == 1:
        return None
    places = {tensor.match.theirs: shard.file for shard in shards for tensor in shard.tensors}
    size = sum(tensor.bytes for shard in shards for tensor in shard.tensors)
    content = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    return (json.dumps(content, indent=2) + "\n").encode()
