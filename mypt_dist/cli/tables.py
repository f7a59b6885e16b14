"""Tables for people, JSON for scripts."""

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def print_json(value: Any) -> None:
    """``value`` as indented JSON on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """See `table_lines`."""
    for line in table_lines(header, rows):
        print(line)


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as their content: numbers to the right. Never cut to the terminal, so that it can be piped."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    numeric = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    for row in [header, *rows]:
        cells = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True))
        yield "  ".join(cells).rstrip()


def _is_number(text: str) -> bool:
    return text in ("", "-") or text.replace(",", "").replace(".", "").replace("%", "").lstrip("-").isdigit()
