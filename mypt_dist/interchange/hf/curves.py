"""A run's losses as a picture: an SVG that is written by hand, so that nothing needs a plotting library."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT, MARGIN = 720, 360, 48
MAX_POINTS = 600
"""Of a line; more are thinned out evenly."""
COLOURS = {"train/loss": "#9ab", "val/loss": "#c30"}
"""Metric -> colour, in the order in which they are drawn."""

Points = list[tuple[float, float]]


def loss_curves(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The losses of a journal's ``rows`` over its steps, as SVG. None where there are fewer than two values."""
    lines = {name: _thinned(_points(rows, name)) for name in COLOURS}
    everything = [point for points in lines.values() for point in points]
    if len(everything) < 2:
        return None
    (left, right), (low, high) = (_range([point[axis] for point in everything]) for axis in (0, 1))

    def place(point: tuple[float, float]) -> str:
        x = MARGIN + (point[0] - left) / (right - left) * (WIDTH - 2 * MARGIN)
        y = HEIGHT - MARGIN - (point[1] - low) / (high - low) * (HEIGHT - 2 * MARGIN)
        return f"{x:.1f},{y:.1f}"

    bottom, top = HEIGHT - MARGIN, MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<path d="M{MARGIN},{top} V{bottom} H{WIDTH - MARGIN}" fill="none" stroke="#666"/>',
        _text(MARGIN, bottom + 18, f"{left:,.0f}"),
        _text(WIDTH - MARGIN, bottom + 18, f"{right:,.0f} steps", "end"),
        _text(MARGIN - 6, bottom, f"{low:.3g}", "end"),
        _text(MARGIN - 6, top + 4, f"{high:.3g}", "end"),
    ]
    for number, (name, points) in enumerate(lines.items()):
        if points:
            path = " ".join(map(place, points))
            parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="1.5"/>')
            parts.append(_text(WIDTH - MARGIN, top + 16 * number, name, "end", COLOURS[name]))
    return "\n".join([*parts, "</svg>", ""])


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> Points:
    return [(float(row["step"]), float(row[name])) for row in rows if isinstance(row.get(name), int | float)]


def _thinned(points: Points) -> Points:
    every = -(-len(points) // MAX_POINTS) or 1
    return [*points[:-1:every], *points[-1:]]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 1, high + 1)


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "#333") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
