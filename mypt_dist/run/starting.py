"""A run that begins with trained weights: which, what is made of them, and how they reach every engine's shards."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from mypt_dist.checkpoint import Checkpoint, CheckpointStore, Manifest
from mypt_dist.engine import Engine, StateReader, Trainable
from mypt_dist.errors import CheckpointError, ConfigError
from mypt_dist.models import ModelConfig
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.redact import scrub
from mypt_dist.run.checkpointing import TOKENIZER_FILE, reader
from mypt_dist.run.config import RunConfig
from mypt_dist.run.inheritance import StartFrom, inheritance, model_of, own_checkpoint, source_of
from mypt_dist.tokenizers import Tokenizer, read_tokenizer
from mypt_dist.tokenizers.agreement import added_specials
from mypt_dist.world import JSON

ROWS_AT_ONCE = 4096
"""Of a table whose mean is taken."""


@dataclass(frozen=True)
class Start:
    """A checkpoint to begin with, and the model that begins with it."""

    wish: StartFrom
    folder: Path
    manifest: Manifest
    source: ModelConfig
    model: ModelConfig
    tokenizer: Tokenizer
    """The source's."""
    added: Mapping[str, int]
    """Control tokens that the source does not have, with their ids."""

    def table(self) -> list[list[str]]:
        """For people: setting, there, here, and by which rule; a header first."""
        header = ["setting", "there", "here", "rule"]
        rows = [[row.key, _told(row.there), _told(row.here), row.rule] for row in inheritance(self.source, self.model)]
        more = f" and {len(self.added)} new control tokens" if self.added else ""
        named = f"{self.tokenizer.kind} of {self.tokenizer.vocab_size:,} ids"
        moments = "inherited" if self.wish.optimizer == "kept" else "fresh"
        return [
            header,
            *rows,
            ["tokenizer", named, f"the same{more}", "must agree"],
            ["optimizer state", f"step {self.manifest.step}", moments, "from the run file"],
            ["step, order of data, schedule", f"step {self.manifest.step}", "from the beginning", "from the run file"],
        ]

    def origin(self) -> dict[str, JSON]:
        """For the manifests of the run: where its weights come from, and where those came from."""
        manifest = self.manifest
        rows = [asdict(row) for row in inheritance(self.source, self.model)]
        earlier = {key: value for key, value in (manifest.origin or {}).items() if key != "inheritance"}
        return {
            "path": scrub(str(self.folder)),
            "run": manifest.run.get("name"),
            "step": manifest.step,
            "tokens": manifest.tokens,
            "sha256": manifest.sha256,
            "optimizer": self.wish.optimizer,
            "added_specials": dict(self.added),
            "inheritance": {row.pop("key"): row for row in rows},
            "origin": earlier or None,
        }

    def load(self, engine: Engine, trainable: Trainable) -> None:
        """Overwrite the weights, and the moments if they are kept. A collective.

        Raises `CheckpointError` on every rank when the source is damaged or holds not what is needed.
        """
        with CheckpointStore(self.folder.parent, engine).lent(self.folder.name) as checkpoint:
            if checkpoint.manifest.sha256 != self.manifest.sha256:
                raise CheckpointError(f"{self.folder} was replaced while this run started: start it again")
            fresh = [token for token in self.added.values() if token < self.source.rows]
            read = StartReader(checkpoint, vocabulary_tables(self.model), self.tokenizer.vocab_size, fresh)
            trainable.load_state(read, moments=self.wish.optimizer == "kept")


def starting_point(config: RunConfig, tokenizer: Tokenizer) -> Start | None:
    """The checkpoint that ``config`` starts from, unless the run has one of its own. Hashes no tensors.

    ``tokenizer``: the data's. Raises `ConfigError` where the two do not go together.
    """
    wish = config.start_from
    if wish is None or own_checkpoint(config.folder) is not None:
        return None
    folder, manifest = source_of(wish)
    source, theirs = model_of(manifest, folder), read_tokenizer(folder / TOKENIZER_FILE)
    try:
        added = added_specials(theirs, tokenizer)
    except ConfigError as error:
        raise ConfigError(
            f"start_from.path: {folder} does not go with the data: {error}. Prepare the data with its tokenizer "
            f"({folder / TOKENIZER_FILE})"
        ) from None
    if wish.optimizer == "kept":
        _require_moments(manifest, folder, config.optimizer.type_name())
    return Start(wish, folder, manifest, source, config.model, theirs, added)


def _require_moments(manifest: Manifest, folder: Path, wanted: str) -> None:
    optimizer = manifest.run.get("optimizer")
    kind = optimizer.get("type") if isinstance(optimizer, dict) else None
    if kind != wanted:
        raise ConfigError(f"start_from.optimizer: kept: {folder} has the state of {kind}, the run file wants {wanted}")
    if not any(name.startswith("optimizer/") for name in manifest.tensors):
        raise ConfigError(f"start_from.optimizer: kept: {folder} holds no optimizer state: use fresh")


def vocabulary_tables(model: ModelConfig) -> frozenset[str]:
    """Names of the parameters with a row for each token: embedding and head."""
    with torch.device("meta"):
        built: CausalLM = model.build()
    tables = (built.get_input_embeddings(), built.get_output_embeddings())
    known = {id(parameter) for table in tables for parameter in table.parameters()}
    return frozenset(name for name, parameter in built.named_parameters() if id(parameter) in known)


@dataclass
class StartReader:
    """As `reader`, for a model that may have more tokens and fewer positions than the one that was saved.

    Any tensor but a table may be shorter than the saved one: its first rows are taken.

    With the mean a new token takes next to nothing from what the model thinks likely, whereas a random row may become
    the likeliest of all (Hewitt, 2021, https://nlp.stanford.edu/~johnhew/vocab-expansion.html).
    """

    checkpoint: Checkpoint
    tables: Collection[str]
    """Names of the parameters with a row for each token."""
    known: int
    """Of these rows the first so many mean something; what is not there begins as their mean, its moments as zero."""
    fresh: Sequence[int] = ()
    """Rows that are there and mean nothing yet: they begin as if they were not."""

    def __post_init__(self) -> None:
        self._plain = reader(self.checkpoint)
        self._beginnings: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: tuple[int, ...], start: int, into: Tensor) -> None:
        """See `StateReader`. Raises `CheckpointError` for what was not saved, or in another shape."""
        saved = self.checkpoint.tensor(name).shape
        if not shape or shape[1:] != saved[1:] or not saved:
            self._plain(name, shape, start, into)
        elif name.rpartition("/")[2] in self.tables:
            self._read_table(name, shape, start, into)
        else:
            self._plain(name, saved if shape[0] < saved[0] else shape, start, into)

    def _read_table(self, name: str, shape: tuple[int, ...], start: int, into: Tensor) -> None:
        saved, width, end = self.checkpoint.tensor(name).shape, math.prod(shape[1:]), start + into.numel()
        there = min(end, math.prod(saved)) - start
        if there > 0:
            self._plain(name, saved, start, into[:there])
        for row in (*self.fresh, *range(saved[0], shape[0])):
            first, last = max(start, row * width), min(end, (row + 1) * width)
            if first < last:
                beginning = self._beginning(name, saved, into.dtype)
                into[first - start : last - start] = beginning[first - row * width : last - row * width]

    def _beginning(self, name: str, saved: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Of a row that means nothing yet: (E,), or (1,) of a bias."""
        if name not in self._beginnings:
            self._beginnings[name] = (
                _mean_row(self._plain, name, saved, self.known, dtype)
                if name.startswith("model/")
                else torch.zeros(math.prod(saved[1:]), dtype=dtype)
            )
        return self._beginnings[name]


def _mean_row(read: StateReader, name: str, shape: tuple[int, ...], known: int, dtype: torch.dtype) -> Tensor:
    """Of the first ``known`` rows: (E,), or (1,) of a bias."""
    width, rows = math.prod(shape[1:]), min(known, shape[0])
    total = torch.zeros(width, dtype=torch.float64)
    for first in range(0, rows, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, rows - first)
        block = torch.empty(count * width, dtype=dtype)
        read(name, shape, first * width, block)
        total += block.view(count, width).double().sum(dim=0)
    return (total / rows).to(dtype)


def _told(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
