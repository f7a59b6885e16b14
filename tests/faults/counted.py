"""Counts of the fault matrix: printed at the end of the tests that made them, and kept for the table in the docs.

``python -m tests.faults.counted`` writes the table of docs/reference/faults.md from what the last runs left.
"""

import json
import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/faults.md"
KEPT = ROOT / "build/faults"
"""Not under version control; the page is."""

SOAK = os.environ.get("MYPT_SOAK") == "1"
"""Whether this is `make test-soak`: as many points as were promised. `make test` takes a part of them where a part
must do."""


def count(fault: str, expected: str, **numbers: float) -> None:
    """Note the outcome of a test. ``fault`` and ``expected`` are the first columns of its row in the table."""
    told = ", ".join(f"{value:,g} {name.replace('_', ' ')}" for name, value in numbers.items())
    KEPT.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", fault.lower()).strip("-")
    row = {"fault": fault, "expected": expected, "counted": told, "soak": SOAK}
    (KEPT / f"{name}{'.soak' if SOAK else ''}.json").write_text(json.dumps(row, indent=1))


def counted_since(moment: float) -> list[str]:
    """A line for every fault that was counted since ``moment``, as of `time.time`, by whatever process."""
    recent = [path for path in sorted(KEPT.glob("*.json")) if path.stat().st_mtime >= moment]
    rows = [json.loads(path.read_text()) for path in recent]
    return [f"{row['fault']}: {row['counted']}" for row in rows]


def table() -> str:
    """Markdown of all that was counted, in the order of the faults' names; of all points, where those were run."""
    found = [json.loads(path.read_text()) for path in sorted(KEPT.glob("*.json"))]
    rows = {row["fault"]: row for row in sorted(found, key=lambda row: bool(row["soak"]))}
    lines = [
        f"| {row['fault']} | {row['expected']} | {row['counted']} |"
        for row in sorted(rows.values(), key=lambda row: str(row["fault"]).lower())
    ]
    return "\n".join(["| fault | must end in | counted |", "|---|---|---|", *lines])


def main() -> None:
    """Write the table into the page, between its marks."""
    begin, end = "<!-- begin: make faults -->", "<!-- end -->"
    before, _, rest = PAGE.read_text().partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}\n\n{table()}\n\n{end}{after}")


if __name__ == "__main__":
    main()
