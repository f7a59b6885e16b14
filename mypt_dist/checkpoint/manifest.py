"""What a checkpoint consists of and where its run stood: the schema of manifest.json, and its one spelling."""

import hashlib
import json
import math
from typing import Any, Self

from pydantic import JsonValue, NonNegativeInt, PositiveInt, ValidationError, model_validator

from mypt_dist.checkpoint.canary import Canary
from mypt_dist.checkpoint.layout import MANIFEST, is_safe_file
from mypt_dist.checkpoint.segments import Dtype, tiling_problem
from mypt_dist.config import Config, Sha256
from mypt_dist.config.problems import problems
from mypt_dist.config.strict_json import parse_json
from mypt_dist.errors import CheckpointError, ConfigError

FORMAT = 1
MAX_BYTES = 256 << 20
"""Of a manifest. A tensor map of 10⁶ segments has about 150 MB."""


class CorruptError(CheckpointError):
    """A checkpoint's bytes are not those that were written. ``problems`` has one sentence for each."""

    def __init__(self, where: str, found: list[str]) -> None:
        super().__init__(f"{where} is corrupt: {'; '.join(found)}")
        self.problems = found


class FileEntry(Config):
    """A file of the checkpoint."""

    bytes: NonNegativeInt
    """Size."""
    sha256: Sha256
    """Hash of the content, computed while it was written."""


class SegmentEntry(Config):
    """Where a contiguous piece of a tensor lies."""

    file: str
    """Relative name of a safetensors file."""
    key: str
    """Name of a 1-D array in that file."""
    start: NonNegativeInt
    """First element, row-major."""
    length: PositiveInt
    """Number of elements."""


class TensorEntry(Config):
    """A logical tensor and its pieces, which cover it exactly once."""

    shape: tuple[NonNegativeInt, ...]
    """Of the whole tensor; empty for a scalar."""
    dtype: Dtype
    """Element type, as safetensors spells it."""
    segments: tuple[SegmentEntry, ...]
    """In the order of their start."""

    @property
    def elements(self) -> int:
        """Number of elements of the whole tensor."""
        return math.prod(self.shape)


class Manifest(Config):
    """Everything about a checkpoint but its bytes. Readable without torch."""

    format: PositiveInt = FORMAT
    """Version of this format."""
    step: NonNegativeInt
    """Optimizer steps done."""
    tokens: NonNegativeInt
    """Tokens consumed by all ranks."""
    samples: NonNegativeInt
    """Position of the run: samples consumed by all ranks."""
    order_hash: str
    """Audit hash of the order in which the samples were consumed."""
    sources: dict[str, JsonValue] = {}
    """Position in every source."""
    data: dict[str, JsonValue]
    """What was trained on, with its fingerprint."""
    seed: int
    """Seed of the run."""
    world_size: PositiveInt
    """Number of ranks that wrote this checkpoint."""
    engine: dict[str, JsonValue]
    """Engine and topology that wrote this checkpoint."""
    run: dict[str, JsonValue]
    """The resolved run file."""
    tracker: dict[str, str] = {}
    """Identifiers of the tracked run, which a resume continues."""
    origin: dict[str, JsonValue] | None = None
    """The checkpoint that the weights were started from."""
    code: dict[str, JsonValue]
    """Version and commit of this program, versions of torch and its like."""
    memory: dict[str, int | float] | None = None
    """Bytes that rank 0 was predicted to need and those measured after some steps, and the error as a fraction."""
    metrics: dict[str, float] = {}
    """Training and evaluation metrics at this step."""
    healthy: bool = True
    """False when the numbers were not to be trusted: this is no checkpoint to go back to."""
    canary: Canary | None = None
    """Loss of one fixed batch, which the model must give again when it is loaded."""
    changes: tuple[dict[str, JsonValue], ...] = ()
    """Settings changed on a resume by explicit permission."""
    skipped: tuple[dict[str, JsonValue], ...] = ()
    """Samples that taught the run nothing: steps whose update was not made, and where it went back."""
    lock_token: str | None = None
    """Token of the run lock under which it was written."""
    files: dict[str, FileEntry]
    """Every file but the manifest, by its name relative to the folder."""
    tensors: dict[str, TensorEntry]
    """Every logical tensor, by name."""
    sha256: str = ""
    """Hash of the rest: sorted keys, no spaces, ASCII."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        for name in self.files:
            if not is_safe_file(name) or name == MANIFEST:
                raise ValueError(f"{name!r} is no name for a file of a checkpoint")
        for name, tensor in self.tensors.items():
            outside = [piece.file for piece in tensor.segments if piece.file not in self.files]
            problem = tiling_problem(((piece.start, piece.length) for piece in tensor.segments), tensor.elements)
            if outside or problem:
                raise ValueError(f"tensor {name}: {problem or f'{outside[0]} is not among the files'}")
        return self

    @property
    def parameters(self) -> int:
        """Of the model, a tied weight once."""
        return sum(tensor.elements for name, tensor in self.tensors.items() if name.startswith("model/"))

    def sealed(self) -> "Manifest":
        """The same with its ``sha256`` filled in. Raises ValueError for a number JSON does not have."""
        return self.model_copy(update={"sha256": _self_hash(self.model_dump(mode="json"))})

    def text(self) -> bytes:
        """Content of manifest.json."""
        return _spell(self.model_dump(mode="json"))


def parse_manifest(content: bytes, where: str) -> Manifest:
    """The manifest in ``content``. Any changed byte is found.

    Raises `CorruptError` when the bytes are not those written, and `CheckpointError` when they are
    but this version can not read them.
    """
    mapping = _authentic(content, where)
    version = mapping.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise CheckpointError(
            f"{where} has format {version}, this version of mypt-dist reads up to {FORMAT}: upgrade mypt-dist"
        )
    try:
        return Manifest.model_validate(mapping)
    except ValidationError as error:
        raise CheckpointError("\n".join([f"{where} is not valid:", *problems(Manifest, error)])) from None


def _authentic(content: bytes, where: str) -> dict[str, Any]:
    try:
        mapping = parse_json(content.decode("ascii"), MANIFEST)
    except (ConfigError, UnicodeDecodeError) as error:
        raise CorruptError(where, [f"{MANIFEST} can not be read: {error}"]) from None
    # A byte of white space or of an escape could change without changing a value, hence the second check.
    if not isinstance(mapping, dict) or mapping.get("sha256") != _self_hash(mapping) or _spell(mapping) != content:
        raise CorruptError(where, [f"{MANIFEST} does not match its own hash"])
    return mapping


def _self_hash(mapping: dict[str, Any]) -> str:
    rest = {key: value for key, value in mapping.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def _spell(mapping: dict[str, Any]) -> bytes:
    """JSON with a line for every key, and for every key of a section: readable, yet small for a large tensor map."""
    return f"{_block(mapping, 2)}\n".encode("ascii")


def _block(value: Any, levels: int, indent: str = "") -> str:
    if not levels or not isinstance(value, dict) or not value:
        return json.dumps(value, allow_nan=False)
    deeper = f"{indent}  "
    lines = (f"{deeper}{json.dumps(key)}: {_block(item, levels - 1, deeper)}" for key, item in value.items())
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
