"""What a run reads of its data: told before it starts, and judged as its run file says."""

import logging
from pathlib import Path

from mypt_dist.checkpoint import Manifest, open_checkpoint
from mypt_dist.config import validate
from mypt_dist.data.config import DataConfig
from mypt_dist.data.course import Past
from mypt_dist.data.coverage import TARGETS, Coverage, Progress, coverage_of, verdict
from mypt_dist.data.curriculum import Measure, course_of, rounded
from mypt_dist.data.mixture import read_source, with_mixture
from mypt_dist.data.order import Windows
from mypt_dist.errors import CheckpointError, ConfigError
from mypt_dist.run.config import RunConfig
from mypt_dist.run.resume import changed_content, past_of

log = logging.getLogger(__name__)


def planned_coverage(config: RunConfig, dataset: Path | None = None) -> Coverage:
    """Of the run that ``config`` describes, with what its folder's newest checkpoint has behind it.

    ``dataset``: instead of the run's own. Reads manifests and nothing else. Raises `ConfigError`, `DataError`.
    """
    data = _with_dataset(config.data, dataset) if dataset else config.data
    manifests = {name: read_source(name, source) for name, source in data.named_sources().items()}
    tokens = {name: manifest.splits.train.tokens for name, manifest in manifests.items()}
    context = config.model.context
    short = next((name for name, count in tokens.items() if count <= context), None)
    if short:
        raise ConfigError(
            f"{data.named_sources()[short].path} has {tokens[short]:,} tokens to learn from, one window needs "
            f"model.context + 1 = {context + 1:,}"
        )
    found = _newest(config.folder)
    if found and not _continues(found, {name: manifest.fingerprint for name, manifest in manifests.items()}):
        found = None
    measure = Measure(config.train.batch_size, context)
    windows = {
        name: Windows.of(count, context, rows=manifests[name].row_length == context + 1).count
        for name, count in tokens.items()
    }
    past, done = (past_of(found), Progress(found.step, found.samples)) if found else (Past(), Progress())
    return coverage_of(course_of(data, measure, windows, past), measure, tokens, config.train.steps, done)


def judge_coverage(coverage: Coverage, data: DataConfig, *, tell: bool) -> None:
    """Raise `ConfigError` where the run reads too little and is to be refused for it; else ``tell`` the log."""
    whole, rule = coverage.whole, data.coverage
    text = (
        f"coverage: the run reads {whole.read:,} tokens, {whole.ratio:.2g} times the {whole.tokens:,} to learn from: "
        f"{verdict(whole.ratio)}"
    )
    ways = ", ".join(f"{ratio:g} times in {coverage.steps_for(ratio):,} steps" for ratio in TARGETS)
    too_little = whole.ratio < rule.limit
    if too_little and rule.below == "refuse":
        raise ConfigError(f"{text}, below data.coverage.limit {rule.limit:g}; {ways} (train.steps)")
    if not tell:
        return
    level = logging.WARNING if too_little and rule.below == "warn" else logging.INFO
    log.log(level, "%s%s", text, f"; {ways} (train.steps)" if level == logging.WARNING else "")
    if coverage.exhausted:
        log.warning("%s: the run ends at step %d", coverage.exhausted, coverage.steps)
    for remark in rounded(data):
        log.warning("%s", remark)


def _with_dataset(data: DataConfig, dataset: Path) -> DataConfig:
    # Weights and phases speak of the run's own sources.
    alone = {**data.model_dump(), "path": dataset, "sources": {}, "weights": {}, "phases": ()}
    return with_mixture(validate(DataConfig, alone, str(dataset)))


def _newest(folder: Path) -> Manifest | None:
    try:
        with open_checkpoint(folder) as checkpoint:
            return checkpoint.manifest
    except CheckpointError:
        return None


def _continues(found: Manifest, fingerprints: dict[str, str]) -> bool:
    """Whether a run on datasets of these contents goes on with at least one of the checkpoint's."""
    sources = found.data.get("sources", {})
    known = isinstance(sources, dict) and sources.keys() & fingerprints.keys()
    return bool(known) and not changed_content(found.data, fingerprints)
