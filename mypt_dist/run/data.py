"""The datasets of a run, opened and checked against each other and the model."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mypt_dist.data.config import DataConfig, SourceConfig
from mypt_dist.data.loader import BatchShape, EvalWindows, TokenGather
from mypt_dist.data.manifest import SPLITS, DatasetManifest
from mypt_dist.data.order import Order, SourceShape
from mypt_dist.data.remote.folder import read_manifest
from mypt_dist.data.remote.supply import Supply
from mypt_dist.data.stream import Reading, TokenStream, require_window
from mypt_dist.data.versions import kept_version
from mypt_dist.errors import ConfigError
from mypt_dist.models import ModelConfig
from mypt_dist.tokenizers import Tokenizer
from mypt_dist.training.config import TrainConfig


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run reads."""

    config: DataConfig
    manifests: Mapping[str, DatasetManifest]
    tokenizer: Tokenizer
    train: tuple[TokenStream, ...]
    validation: tuple[TokenStream, ...]
    """Of the sources that have a validation split."""
    supply: Supply
    """Of what lies behind URLs."""

    @property
    def fingerprint(self) -> str:
        """Changes with the content of any source, with their names, and with nothing else."""
        return fingerprint_of(self.manifests)

    @property
    def sources(self) -> dict[str, SourceConfig]:
        return self.config.named_sources()

    def kept_versions(self, before: Mapping[str, Any]) -> list[str]:
        """Settings that name what a run read ``before``, where it was since appended to.

        ``before``: the section ``data`` of a checkpoint's manifest.
        """
        remedies = []
        for name, source in self.sources.items():
            fingerprint = str(before.get("sources", {}).get(name, {}).get("fingerprint"))
            if fingerprint != self.manifests[name].fingerprint and (kept := kept_version(source.path, fingerprint)):
                key = "data.path" if self.config.path is not None else f"data.sources.{name}.path"
                remedies.append(f"{key}={kept}")
        return remedies

    def order(self, train: TrainConfig, context: int) -> Order:
        """The order of the training data. Raises `ConfigError` where a cap on epochs cannot be kept."""
        shapes = [
            SourceShape(name, len(stream), self.sources[name].weight)
            for name, stream in zip(self.sources, self.train, strict=True)
        ]
        order = Order(shapes, context=context, seed=train.seed, shuffle=self.config.shuffle)
        epochs = order.epochs(train.steps * train.batch_size)
        over = [
            f"  data.sources.{name}.max_epochs: {cap}, but the run reads it {epochs[name]:.2f} times"
            for name, source in self.sources.items()
            if (cap := source.max_epochs) is not None and epochs[name] > cap
        ]
        if over:
            raise ConfigError("\n".join([*over, "lower train.steps or the source's weight, or raise the cap"]))
        return order

    def check_cache(self, train: TrainConfig, context: int) -> None:
        """Raise `ConfigError` where the cache for remote shards is too small for what is gathered at once."""
        self.supply.check_room(self.config.shuffle, self._near * train.batch_size, context + 1)

    def look_ahead(self, order: Order, shape: BatchShape, position: int) -> None:
        """Look ahead from sample ``position`` on, and have what is read there first. Raises `DataError`."""
        self.supply.follow(order, shape, list(self.sources), self._near)
        self.supply.fill(position)

    @property
    def _near(self) -> int:
        """Steps that are gathered at once, and one that begins."""
        return self.config.prefetch + 2

    def gather(self, vocab_size: int) -> TokenGather:
        """Batches of the training split."""
        return self._gather(self.train, vocab_size)

    def evaluation(self, shape: BatchShape, vocab_size: int, windows: int) -> EvalWindows:
        """Fixed windows of all validation splits; none if there is no text for one."""
        gather = self._gather(self.validation, vocab_size)
        return EvalWindows(gather, shape, [len(stream) for stream in self.validation], windows)

    def mark_damaged(self, blocks: Sequence[str]) -> None:
        """Skip ``blocks``, ``source:file:block``, without a look."""
        for stream in (*self.train, *self.validation):
            stream.mark_damaged(blocks)

    def _gather(self, streams: Sequence[TokenStream], vocab_size: int) -> TokenGather:
        document_end = self.tokenizer.eot_id if self.config.document_mask else None
        return TokenGather(streams, self.tokenizer.byte_lengths(), vocab_size, document_end=document_end)


def fingerprint_of(manifests: Mapping[str, DatasetManifest]) -> str:
    """Of the content of sources, by their names."""
    text = "\n".join(f"{name} {manifests[name].fingerprint}" for name in sorted(manifests))
    return hashlib.sha256(text.encode()).hexdigest()


def open_data(config: DataConfig, model: ModelConfig) -> RunData:
    """Open every source. Raises `ConfigError` for what does not fit together, `DataError` for a damaged shard."""
    sources = config.named_sources()
    manifests = {name: read_manifest(source.path) for name, source in sources.items()}
    _same_tokenizer(manifests)
    tokenizer = next(iter(manifests.values())).load_tokenizer()
    if model.vocab_size is not None and model.vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab_size is {model.vocab_size}, the data's {tokenizer.kind} tokenizer has "
            f"{tokenizer.vocab_size} ids: use at least that, or null to follow the tokenizer"
        )

    def reading(name: str) -> Reading:
        return Reading(config.reader, config.on_damage, name)

    supply = Supply(config.cache, config.read_timeout_s)
    train, validation = (
        tuple(supply.stream(source.path, manifests[name], split, reading(name)) for name, source in sources.items())
        for split in SPLITS
    )
    for stream in train:
        require_window(stream, model.context)
    validation = tuple(stream for stream in validation if len(stream) > model.context)
    return RunData(config, manifests, tokenizer, train, validation, supply)


def _same_tokenizer(manifests: Mapping[str, DatasetManifest]) -> None:
    (first_name, first), *others = manifests.items()
    for name, manifest in others:
        if manifest.tokenizer.fingerprint != first.tokenizer.fingerprint:
            raise ConfigError(
                f"data.sources.{name} was prepared with another tokenizer ({manifest.tokenizer.kind}, "
                f"{manifest.tokenizer.fingerprint[:12]}) than data.sources.{first_name} ({first.tokenizer.kind}, "
                f"{first.tokenizer.fingerprint[:12]}): prepare them alike"
            )
