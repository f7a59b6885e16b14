"""The datasets of a run, opened and checked against each other and the model."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mypt_dist.data.config import METRICS, DataConfig, EvaluationConfig, SourceConfig
from mypt_dist.data.course import Past
from mypt_dist.data.curriculum import Measure, check_limits, course_of, planned
from mypt_dist.data.loader import BatchShape, EvalWindows, TokenGather
from mypt_dist.data.manifest import SPLITS, DatasetManifest
from mypt_dist.data.mixture import read_source
from mypt_dist.data.order import Order, SourceShape, Windows
from mypt_dist.data.place import DatasetPlace
from mypt_dist.data.remote.folder import read_manifest
from mypt_dist.data.remote.supply import Supply
from mypt_dist.data.stream import Reading, TokenStream, require_window
from mypt_dist.data.versions import kept_version
from mypt_dist.errors import ConfigError
from mypt_dist.models import ModelConfig
from mypt_dist.tokenizers import Tokenizer
from mypt_dist.training.config import TrainConfig

PATIENCE_SHARE = 0.9
"""Of the time that a step waits for its data: whoever fetches a shard knows why it does not come, and speaks first."""


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run reads."""

    config: DataConfig
    manifests: Mapping[str, DatasetManifest]
    tokenizer: Tokenizer
    train: tuple[TokenStream, ...]
    validation: Mapping[str, TokenStream]
    """Of the sources whose validation split has a window, by name."""
    sets: Mapping[str, tuple[TokenStream, int]]
    """What is measured alone, by name: tokens, and how many windows at most; 0 for as many as of all together."""
    measured: Mapping[str, DatasetManifest]
    """Of the datasets that serve for that alone."""
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

    def order(self, train: TrainConfig, context: int, past: Past | None = None, samples: int | None = None) -> Order:
        """The order of the training data behind ``past``. Raises `ConfigError` where a cap on epochs cannot be kept.

        ``samples``: of the whole run, if not those of its steps.
        """
        shapes = [
            SourceShape(name, len(stream), rows=stream.row_length is not None)
            for name, stream in zip(self.sources, self.train, strict=True)
        ]
        windows = {shape.name: Windows.of(shape.tokens, context, rows=shape.rows).count for shape in shapes}
        measure = Measure(train.batch_size, context)
        samples = train.steps * train.batch_size if samples is None else samples
        check_limits(self.config, windows, planned(self.config, measure, windows, samples, past))
        course = course_of(self.config, measure, windows, past)
        return Order(shapes, context=context, seed=train.seed, shuffle=self.config.shuffle, course=course)

    def check_cache(self, train: TrainConfig, context: int) -> None:
        """Raise `ConfigError` where the cache for remote shards is too small for what is gathered at once."""
        self.supply.check_room(list(self.sources), self.config.shuffle, self._near * train.batch_size, context + 1)

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

    def evaluations(self, shape: BatchShape, vocab_size: int, windows: int) -> dict[str, EvalWindows]:
        """Fixed windows by the prefix of their metrics, without those that no text is there for.

        ``val``: ``windows`` of all validation splits together; ``val/NAME``: those of one of the `sets`.
        """
        alone = {f"val/{name}": ([stream], limit or windows) for name, (stream, limit) in self.sets.items()}
        wanted = {"val": (list(self.validation.values()), windows), **alone}
        return {
            prefix: EvalWindows(self._gather(streams, vocab_size), shape, [len(s) for s in streams], limit)
            for prefix, (streams, limit) in wanted.items()
            if streams
        }

    def mark_damaged(self, blocks: Sequence[str]) -> None:
        """Skip ``blocks``, ``source:file:block``, without a look."""
        for stream in (*self.train, *self.validation.values(), *(stream for stream, _ in self.sets.values())):
            stream.mark_damaged(blocks)

    def _gather(self, streams: Sequence[TokenStream], vocab_size: int) -> TokenGather:
        document_end = self.tokenizer.eot_id if self.config.document_mask else None
        return TokenGather(streams, self.tokenizer.byte_lengths(), vocab_size, document_end=document_end)


def fingerprint_of(manifests: Mapping[str, DatasetManifest]) -> str:
    """Of the content of sources, by their names."""
    text = "\n".join(f"{name} {manifests[name].fingerprint}" for name in sorted(manifests))
    return hashlib.sha256(text.encode()).hexdigest()


def open_data(config: DataConfig, model: ModelConfig, evaluation: EvaluationConfig | None = None) -> RunData:
    """Open every source. Raises `ConfigError` for what does not fit together, `DataError` for a damaged shard."""
    evaluation = evaluation or EvaluationConfig()
    sources = config.named_sources()
    manifests = {name: read_source(name, source) for name, source in sources.items()}
    measured = {name: read_manifest(one.path) for name, one in evaluation.sets.items()}
    keys = {f"data.sources.{name}": manifest for name, manifest in manifests.items()}
    _same_tokenizer({**keys, **{f"evaluation.sets.{name}": manifest for name, manifest in measured.items()}})
    tokenizer = next(iter(manifests.values())).load_tokenizer()
    if model.vocab_size is not None and model.vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab_size is {model.vocab_size}, the data's {tokenizer.kind} tokenizer has "
            f"{tokenizer.vocab_size} ids: use at least that, or null to follow the tokenizer"
        )

    supply = Supply(config.cache, PATIENCE_SHARE * config.read_timeout_s)

    def opened(name: str, place: DatasetPlace, manifest: DatasetManifest, split: str) -> TokenStream:
        return supply.stream(place, manifest, split, Reading(config.reader, config.on_damage, name))

    train, validation = (
        {name: opened(name, source.path, manifests[name], split) for name, source in sources.items()}
        for split in SPLITS
    )
    sets = {
        name: (opened(f"evaluation.sets.{name}", one.path, measured[name], one.split), one.windows)
        for name, one in evaluation.sets.items()
    }
    for stream in (*train.values(), *(stream for stream, _ in sets.values())):
        require_window(stream, model.context)
    validation = {name: stream for name, stream in validation.items() if len(stream) > model.context}
    if evaluation.by_source:
        sets = {**_by_source(validation, sets), **sets}
    return RunData(config, manifests, tokenizer, tuple(train.values()), validation, sets, measured, supply)


def _by_source(validation: Mapping[str, TokenStream], sets: Collection[str]) -> dict[str, tuple[TokenStream, int]]:
    taken = sorted(validation.keys() & {*sets, *METRICS})
    if taken:
        raise ConfigError(
            f"evaluation.by_source measures data.sources.{taken[0]} as val/{taken[0]}, and that name is taken: give "
            "the source or the set in evaluation.sets another one"
        )
    return {name: (stream, 0) for name, stream in validation.items()}


def _same_tokenizer(manifests: Mapping[str, DatasetManifest]) -> None:
    (first_key, first), *others = manifests.items()
    for key, manifest in others:
        if manifest.tokenizer.fingerprint != first.tokenizer.fingerprint:
            raise ConfigError(
                f"{key} was prepared with another tokenizer ({_told(manifest)}) than {first_key} ({_told(first)}): "
                "prepare them alike"
            )


def _told(manifest: DatasetManifest) -> str:
    return f"{manifest.tokenizer.kind} of {manifest.vocab_size:,} ids, {manifest.tokenizer.fingerprint[:12]}"
