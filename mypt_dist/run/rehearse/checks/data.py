"""Are the datasets there, whole, large enough, and written in the model's vocabulary?"""

from collections.abc import Iterator

from mypt_dist.data.curriculum import MORE_DATA, Measure, over_limits
from mypt_dist.data.remote.folder import read_manifest
from mypt_dist.errors import ConfigError, MyptError
from mypt_dist.run.plan.batches import SourceAmount, amounts
from mypt_dist.run.rehearse.case import Case, SourceSight
from mypt_dist.run.rehearse.findings import Finding


def dataset_missing(case: Case) -> Iterator[Finding]:
    """A dataset that is not where the run file says."""
    for name, source in case.around.sources.items():
        if source.missing:
            yield Finding(
                _key(case, name),
                source.missing.partition(";")[0],
                "a cluster would find out on every node; here a small synthetic dataset stands in for it",
                f"mypt data prepare INPUT... --out {source.path}, or rehearse where the data are",
                "warning",
            )


def dataset_damaged(case: Case) -> Iterator[Finding]:
    """A shard that is truncated, missing or of another dataset, or a `dataset.json` that was edited."""
    for name, source in case.around.sources.items():
        if source.damage:
            yield Finding(
                _key(case, name),
                source.damage,
                "every rank refuses to start, or worse, stops when it gets there",
                f"copy it again, then: mypt data verify {source.path}",
            )


def vocabulary(case: Case) -> Iterator[Finding]:
    """`model.vocab_size` below the tokenizer's vocabulary."""
    size = case.config.open_model().vocab_size
    for _, source in _known(case):
        manifest = source.manifest
        if manifest and size is not None and size < manifest.vocab_size:
            yield Finding(
                "model.vocab_size",
                f"{size:,}, but the {manifest.tokenizer.kind} tokenizer of {source.path} has "
                f"{manifest.vocab_size:,} ids",
                "the model has no rows for some of the tokens",
                f"model.vocab_size=null, or at least {manifest.vocab_size}",
            )


def token_ids(case: Case) -> Iterator[Finding]:
    """Tokens beyond the vocabulary in the parts of the shards that were looked at."""
    for name, source in _known(case):
        assert source.manifest is not None, "known"
        if source.highest_id is not None and source.highest_id >= source.manifest.vocab_size:
            yield Finding(
                _key(case, name),
                f"{source.path} holds token {source.highest_id}, its vocabulary ends at "
                f"{source.manifest.vocab_size - 1}",
                "training stops at the first window that holds it, hours from now perhaps",
                f"mypt data verify {source.path} names the shard; copy or prepare it again",
            )


def tokenizers_differ(case: Case) -> Iterator[Finding]:
    """Sources of one mixture that were prepared with different tokenizers."""
    known = [(name, source.manifest) for name, source in _known(case) if source.manifest]
    for name, manifest in known[1:]:
        first_name, first = known[0]
        if manifest.tokenizer.fingerprint != first.tokenizer.fingerprint:
            yield Finding(
                _key(case, name),
                f"prepared with the {manifest.tokenizer.kind} tokenizer, {first_name} with {first.tokenizer.kind}",
                "the same number would mean two different texts",
                "prepare them alike: mypt data prepare … --tokenizer",
            )


def window(case: Case) -> Iterator[Finding]:
    """A training split that is shorter than one window of `model.context`, or packed for another one."""
    for name, source in _known(case):
        assert source.manifest is not None, "known"
        tokens, need = source.manifest.splits.train.tokens, case.config.model.context + 1
        if tokens < need:
            yield Finding(
                _key(case, name),
                f"{tokens:,} tokens to learn from, one window needs {need:,}",
                "there is not a single sample",
                "prepare more text, or lower model.context",
            )
        elif source.manifest.row_length not in (None, need):
            packed = source.manifest.row_length - 1
            yield Finding(
                _key(case, name),
                f"conversations packed for a context of {packed:,}, model.context is {need - 1:,}",
                "every rank refuses to start",
                f"set model.context={packed}, or pack again: mypt data prepare-chat --context {need - 1}",
            )


def phases(case: Case) -> Iterator[Finding]:
    """Phases of a curriculum that do not follow each other, and sources without anything to read."""
    try:
        _reads(case)
    except ConfigError as error:
        yield Finding(
            "data.phases", str(error), "the run is refused when its order is made", "give each phase a later end"
        )


def epochs(case: Case) -> Iterator[Finding]:
    """A source that would be read more often than its `max_epochs` allows."""
    try:
        reads = _reads(case)
    except ConfigError:
        return
    sources = case.config.data.named_sources()
    windows = {amount.name: amount.windows for amount in reads}
    over = over_limits(case.config.data, windows, {amount.name: amount.samples for amount in reads}) if reads else {}
    for name, times in over.items():
        yield Finding(
            f"data.sources.{name}.max_epochs",
            f"{sources[name].epochs:g}, but the run reads it {times:.2f} times",
            "the run is refused when its order is made",
            f"lower train.steps or the source's weight, or {MORE_DATA}",
        )


def evaluation_sets(case: Case) -> Iterator[Finding]:
    """A dataset of `evaluation.sets` that cannot be read."""
    for name, one in case.config.evaluation.sets.items():
        try:
            read_manifest(one.path)
        except MyptError as error:
            yield Finding(
                f"evaluation.sets.{name}.path",
                str(error).partition(";")[0],
                "every rank refuses to start",
                "correct the path, or leave the set out",
            )


def _reads(case: Case) -> list[SourceAmount]:
    """What the run reads of each source, none where nobody knows. Raises `ConfigError`."""
    data, train, context = case.config.data, case.config.train, case.config.model.context
    tokens = {name: s.manifest.splits.train.tokens if s.manifest else None for name, s in case.around.sources.items()}
    if set(tokens) != set(data.named_sources()) or any(True for _ in window(case)):
        return []
    packed = {name for name, s in case.around.sources.items() if s.manifest and s.manifest.row_length}
    return amounts(data, tokens, train.steps * train.batch_size, Measure(train.batch_size, context), packed=packed)


def _known(case: Case) -> list[tuple[str, SourceSight]]:
    return [(name, source) for name, source in case.around.sources.items() if source.manifest]


def _key(case: Case, name: str) -> str:
    return "data.path" if case.config.data.path is not None else f"data.sources.{name}.path"


CHECKS = (
    dataset_missing,
    dataset_damaged,
    vocabulary,
    token_ids,
    tokenizers_differ,
    window,
    phases,
    epochs,
    evaluation_sets,
)
