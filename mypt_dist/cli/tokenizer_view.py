"""Tokenizers side by side: cells of a table, bars on a terminal, the same bars as SVG and in a page of HTML."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from mypt_dist.cli.plan_view import bar

if TYPE_CHECKING:
    from mypt_dist.data.comparison import Measured

HEADER = ("tokenizer", "ids", "tokens", "characters/token", "bytes/token", "embedding", "context, characters", "MB/s")
COLOUR, TEXT = "#4269d0", "#222"
LINE, LEFT, LONGEST, RIGHT = 26, 190, 420, 90
"""Pixels of a plot: height of a line, room for names, the longest bar, room for numbers."""


def cells(row: "Measured", width: int, context: int) -> list[str]:
    """Of one tokenizer, under `HEADER`."""
    told = row.to_json(width, context)
    return [
        row.name,
        f"{row.ids:,}",
        f"{row.tokens:,}",
        f"{row.characters_per_token:.2f}",
        f"{row.bytes_per_token:.2f}",
        f"{told['embedding_parameters']:,}",
        f"{told['context_characters']:,}",
        f"{row.bytes_per_second / 1e6:.1f}",
    ]


def bars(rows: Sequence["Measured"]) -> Iterator[str]:
    """Characters a token, as bars of text."""
    longest, names = max(row.characters_per_token for row in rows), max(len(row.name) for row in rows)
    yield "characters a token"
    for row in rows:
        yield f"{row.name:<{names}}  {row.characters_per_token:5.2f}  {bar(row.characters_per_token / longest)}"


def plot(rows: Sequence["Measured"]) -> str:
    """Two groups of bars, as a picture of its own: how far a token reaches, and how many ids there are."""
    groups = [
        (
            "characters a token",
            [(row.name, row.characters_per_token, f"{row.characters_per_token:.2f}") for row in rows],
        ),
        ("ids", [(row.name, float(row.ids), f"{row.ids:,}") for row in rows]),
    ]
    lines: list[str] = []
    top = 0
    for title, entries in groups:
        top += LINE
        lines.append(_text(8, top, title, weight="bold"))
        longest = max(value for _, value, _ in entries)
        for name, value, shown in entries:
            top += LINE
            length = max(1.0, LONGEST * value / longest)
            lines.append(_text(LEFT - 8, top, name, anchor="end"))
            lines.append(f'<rect x="{LEFT}" y="{top - 13}" width="{length:.1f}" height="17" rx="2" fill="{COLOUR}"/>')
            lines.append(_text(LEFT + length + 6, top, shown))
        top += LINE // 2
    width, height = LEFT + LONGEST + RIGHT, top + LINE // 2
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">'
    )
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *lines, "</svg>", ""])


def page(rows: Sequence["Measured"], width: int, context: int, notes: Sequence[str]) -> str:
    """Table and plot, in one file that loads nothing."""
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADER)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells(row, width, context)) + "</tr>" for row in rows
    )
    return "\n".join(
        [
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Tokenizers</title>',
            "<style>body{font-family:sans-serif;margin:2em}td,th{padding:.3em .8em;text-align:right}",
            "td:first-child,th:first-child{text-align:left}tr:nth-child(odd) td{background:#f4f4f4}</style>",
            f"<h1>Tokenizers</h1><p>{rows[0].characters:,} characters from which nothing was learned; a model of width "
            f"{width:,} and context {context:,}.</p>",
            f"<table><tr>{head}</tr>",
            body,
            "</table>",
            plot(rows),
            *(f"<p>{escape(note)}</p>" for note in notes),
            "</html>",
            "",
        ]
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" fill="{TEXT}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
    )
