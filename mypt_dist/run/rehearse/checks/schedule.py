"""Do the intervals and lengths of the run fit into its steps?"""

from collections.abc import Iterator

from mypt_dist.run.rehearse.case import Case
from mypt_dist.run.rehearse.findings import Finding


def save_every(case: Case) -> Iterator[Finding]:
    """`train.save_every` beyond `train.steps`: nothing is saved before the end."""
    train = case.config.train
    if train.save_every != "auto" and train.save_every > train.steps:
        yield Finding(
            "train.save_every",
            f"{train.save_every:,} steps between checkpoints, the run has {train.steps:,}",
            "the only checkpoint is the last: whatever ends the run before costs all of it",
            f"train.save_every={max(1, train.steps // 10)}",
            "warning",
        )


def warmup(case: Case) -> Iterator[Finding]:
    """`train.schedule.warmup` that is not over before the run is."""
    train = case.config.train
    length = train.steps * _scale(case)
    if train.schedule.warmup >= length:
        yield Finding(
            "train.schedule.warmup",
            f"{train.schedule.warmup:,} {train.schedule.unit} of warm-up, the run has {length:,}",
            "the learning rate never reaches optimizer.lr",
            f"train.schedule.warmup={max(1, length // 50)}, or count it in the other unit",
            "warning",
        )


def decay(case: Case) -> Iterator[Finding]:
    """`train.schedule.decay` that begins before the warm-up has ended."""
    train = case.config.train
    length = train.steps * _scale(case)
    wanted = train.schedule.decay or 0
    if train.schedule.shape == "wsd" and 0 < length - train.schedule.warmup < wanted:
        yield Finding(
            "train.schedule.decay",
            f"a fall of {wanted:,} {train.schedule.unit} does not fit behind the warm-up in a run of {length:,}",
            "it is cut short: the rate is never held at its peak",
            f"train.schedule.decay={max(1, length // 5)}",
            "warning",
        )


def eval_windows(case: Case) -> Iterator[Finding]:
    """`train.eval_windows` beyond the windows that the validation split has."""
    manifests = [source.manifest for source in case.around.sources.values() if source.manifest]
    windows = sum(m.splits.val.tokens // (case.config.model.context + 1) for m in manifests)
    wanted = case.config.train.eval_windows
    if manifests and windows < wanted:
        yield Finding(
            "train.eval_windows",
            f"{wanted:,} windows wanted, the validation splits hold {windows:,} of {case.config.model.context} tokens",
            "val/loss is measured on fewer" if windows else "val/loss is never measured, and no checkpoint is the best",
            f"train.eval_windows={windows}" if windows else "mypt data prepare … --val-fraction with a larger share",
            "warning",
        )


def _scale(case: Case) -> int:
    """Units of the schedule in a step."""
    train = case.config.train
    return train.batch_size * case.config.model.context if train.schedule.unit == "tokens" else 1


CHECKS = (save_every, warmup, decay, eval_windows)
