"""What a report of a hang says: who, where, since when; what every rank is at; the stacks of the one that writes it."""

from collections.abc import Sequence
from datetime import UTC, datetime

from mypt_dist.watch.verdict import RankStatus, missing, suspects, table


def report(hung: RankStatus, limit_s: float, known: Sequence[RankStatus], stacks: str, recorded: str) -> str:
    """The whole text. ``known``: the newest status of every rank that told one; ``recorded``: of NCCL's recorder."""
    when = datetime.fromtimestamp(hung.time, UTC)
    return "\n".join(
        [
            f"{hung}, limit {limit_s:g} s ({when:%Y-%m-%d %H:%M:%S} UTC, process {hung.pid})",
            "",
            _verdict(known),
            "",
            table(known),
            "",
            f"Stacks of rank {hung.rank}, innermost frames first:",
            "",
            stacks.strip() or "none: the process is stopped, or its interpreter does not answer",
            *(["", recorded] if recorded else []),
            "",
        ]
    )


def _verdict(known: Sequence[RankStatus]) -> str:
    size = max(status.rank for status in known) + 1
    silent = missing(known, size)
    told = f" Nothing is known of ranks {', '.join(map(str, silent))}." if silent else ""
    if len(known) == 1:
        return f"No other rank told what it is at.{told}"
    found = suspects(known)
    if not found:
        return f"All ranks are at the same: compare their stacks in the other reports.{told}"
    return f"The others wait for {', '.join(f'rank {status.rank}' for status in found)}.{told}"
