"""What is in a file of ``torch.save``? A process of its own answers, in JSON, and reads no tensor's bytes.

Run as ``python -m mypt_dist.interchange.torch_files.outline DESCRIPTOR …``; a line for each descriptor. Every answer is
a nest of pairs ``[kind, content]``; a tensor is told by its type, its shape, and where its storage begins in the file.
"""

import codecs
import io
import json
import math
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from mypt_dist.interchange.torch_files.confinement import confine, leave_network
from mypt_dist.lifeline import die_with_parent
from mypt_dist.world import JSON

MAX_NODES = 250_000
"""Values in one file, about ten for each tensor: small pickles can unfold to endless ones."""
MAX_TEXT = 1 << 20
SHOWN = 200

_SAMPLE = (
    b"\x80\x02}q\x00X\x01\x00\x00\x00tq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\x00\x00\x00storageq\x03"
    b"ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpuq\x06K\x01tq\x07QK\x00K\x01\x85q\x08K\x01"
    b"\x85q\t\x89ccollections\nOrderedDict\nq\n)Rq\x0btq\x0cRq\rs."
)
"""The description of ``{"t": tensor([0.0])}``, as torch.save writes it."""


def outline(file: BinaryIO) -> dict[str, JSON]:
    """``{"tree": …}``, or ``{"error": …}`` for what is more than tensors and plain values. Never raises for a file."""
    try:
        return {"tree": _Tree().told(_load(file))}
    # Whatever a crafted file makes torch or Python raise.
    except Exception as error:  # noqa: BLE001
        return {"error": _reason(error)}


def _load(file: BinaryIO) -> Any:
    import torch  # noqa: PLC0415 - by a process that has left the network before

    # Onto a device without memory: storages get a size and a place in the file, and no bytes.
    found = torch.load(file, map_location="meta", weights_only=True)
    if any(_place(tensor) is None for tensor in _tensors(found)):
        # Versions of torch that tell the place under this mode alone, whose import takes long.
        from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: PLC0415

        file.seek(0)
        with FakeTensorMode():
            found = torch.load(file, weights_only=True)
    return found


def _place(tensor: Any) -> int | None:
    place = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    return place if isinstance(place, int) else None


def _tensors(value: Any) -> Iterator[Any]:
    """Of the first dict of tensors: they are all told alike."""
    import torch  # noqa: PLC0415

    if isinstance(value, torch.Tensor):
        if value.layout == torch.strided:
            yield value
    elif isinstance(value, dict):
        for inner in list(value.values())[:1]:
            yield from _tensors(inner)


class _Tree:
    def __init__(self) -> None:
        self._nodes = 0

    def told(self, value: Any) -> list[JSON]:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise ValueError(f"it unfolds to more than {MAX_NODES:,} values")
        match value:
            case None | bool():
                return ["value", value]
            case int() | str():
                return ["value", value] if _is_small(value) else ["opaque", f"{type(value).__name__} of great length"]
            case float():
                return ["value", value] if math.isfinite(value) else ["opaque", str(value)]
            case dict():
                return ["dict", [[self.told(key), self.told(inner)] for key, inner in value.items()]]
            case list() | tuple():
                return ["list", [self.told(inner) for inner in value]]
        return self._object(value)

    def _object(self, value: Any) -> list[JSON]:
        import torch  # noqa: PLC0415

        # Neither subclasses nor what is sparse, quantised or nested.
        simple = type(value) in (torch.Tensor, torch.nn.Parameter) or type(value).__name__ == "FakeTensor"
        if simple and value.layout == torch.strided and (place := _place(value)) is not None:
            kind = str(value.dtype).removeprefix("torch.")
            return ["tensor", [kind, place, value.storage_offset(), list(value.shape), list(value.stride())]]
        return ["opaque", f"{type(value).__name__} {value if isinstance(value, torch.dtype) else ''}".strip()]


def _is_small(value: int | str) -> bool:
    return len(value) <= MAX_TEXT if isinstance(value, str) else value.bit_length() <= 63


def _reason(error: Exception) -> str:
    """Torch's advice on how to run a program is not passed on."""
    text = str(error)
    wanted = re.search(r"GLOBAL ([\w.]+)", text)
    if wanted:
        return f"it is a program that wants to use {wanted[1]}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    first = text.removeprefix("Weights only load failed.").strip().partition("\n")[0]
    return f"{type(error).__name__}: {first[:SHOWN]}"


def _warm_up() -> None:
    """Have everything loaded that loading needs: afterwards nothing more can be."""
    for name in ("ascii", "latin-1", "utf-8"):
        codecs.lookup(name)
    sample = io.BytesIO()
    with zipfile.ZipFile(sample, "w") as archive:
        for name, content in (
            ("data.pkl", _SAMPLE),
            ("version", b"3\n"),
            ("byteorder", b"little"),
            ("data/0", b"0000"),
        ):
            archive.writestr(f"archive/{name}", content)
    sample.seek(0)
    told = outline(sample)
    if "error" in told:
        raise RuntimeError(f"this torch cannot tell what is in a file: {told['error']}")
    outline(io.BytesIO(b"no archive"))


def main() -> None:
    """A line of JSON for every descriptor, even where there is nothing to tell but why."""
    die_with_parent()
    leave_network()
    files = [os.fdopen(int(number), "rb") for number in sys.argv[1:]]
    try:
        _warm_up()
        confine()
    except Exception as error:  # noqa: BLE001 - somebody waits for an answer
        sys.stdout.write(json.dumps({"error": _reason(error)}) + "\n")
        return
    for file in files:
        sys.stdout.write(_line(file) + "\n")
        sys.stdout.flush()


def _line(file: BinaryIO) -> str:
    try:
        return json.dumps(outline(file), allow_nan=False)
    except (ValueError, RecursionError, MemoryError) as error:
        return json.dumps({"error": _reason(error)})


if __name__ == "__main__":
    main()
