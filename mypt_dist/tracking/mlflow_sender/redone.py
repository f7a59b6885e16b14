"""Which of a resumed run's numbers were sent before, when an interrupted attempt came through the same steps?

MLflow never forgets a point, so what is sent twice is there twice. A run that resumes from step 100 after the
interrupted attempt had reached 120 does the steps from 101 to 120 again: mostly with the very same losses.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mypt_dist.tracking.journal import EVENTS, METRICS, parse_object, parse_row
from mypt_dist.tracking.lines import read_lines
from mypt_dist.tracking.mlflow_sender.payload import Point, points

GOES_BACK: Final = ("start", "rollback")
"""Kinds of events that say, in ``resumed_from_step``, from where on steps are done again."""


class Redone:
    """What earlier attempts had logged beyond the step from which the run last resumed."""

    def __init__(self, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """``rows`` are the metrics of those attempts by step."""
        self._rows = rows

    @classmethod
    def before(cls, run_dir: Path, events_end: int) -> "Redone":
        """As of the last of `GOES_BACK` in the first ``events_end`` bytes of the events; nothing before the second."""
        events = (parse_object(line) for line, _ in read_lines(run_dir / EVENTS, stop=events_end))
        starts = [event for event in events if event is not None and event.get("kind") in GOES_BACK]
        rows: dict[int, dict[str, Any]] = {}
        if len(starts) < 2:
            return cls(rows)
        resumed_from, stop = starts[-1].get("resumed_from_step"), starts[-1].get("metrics_bytes")
        after = resumed_from if isinstance(resumed_from, int) else -1
        for line, _ in read_lines(run_dir / METRICS, stop=stop if isinstance(stop, int) else 0):
            row = parse_row(line)
            if row is not None and row["step"] > after:
                rows.setdefault(row["step"], {}).update(row)
        return cls(rows)

    def steps(self) -> str | None:
        """The steps that are done again, such as ``101-120``; None where there are none."""
        return f"{min(self._rows)}-{max(self._rows)}" if self._rows else None

    def new_points(self, row: Mapping[str, Any]) -> list[Point]:
        """The points of ``row`` that MLflow does not have yet.

        Equal losses mean that the same step was done again: then its speed and its other measurements are not
        worth a second point either. With other losses every value that changed is sent; the newer one counts.
        """
        earlier = self._rows.get(row["step"])
        if earlier is None:
            return points(row)
        known = {name for name in row if name in earlier}
        if any(row[name] != earlier[name] for name in known if name.endswith("loss")):
            known = {name for name in known if row[name] == earlier[name]}
        own = {"step": row["step"], "time": row["time"]}
        return points({**{name: value for name, value in row.items() if name not in known}, **own})
