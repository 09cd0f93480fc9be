"""The learning curve as a picture: a panel a preset, a line a category."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import mean
from typing import Any

WIDE, HIGH, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 50, 150, 30, 40
LOW = 0.5  # image AUROC of chance; what lies below is drawn there
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7a5195")


def curve_picture(
    rows: Sequence[dict[str, Any]], in_order: Callable[[Sequence[dict[str, Any]]], list[str]]
) -> str:
    """Return an SVG: means over draws, and a bar from least to best draw.

    Args:
        rows: each of a ``preset``, ``category``, ``shots`` and draw, with its ``image_auroc``.
        in_order: returns the numbers of pictures of rows.
    """
    columns = in_order(rows)
    presets = list(dict.fromkeys(row["preset"] for row in rows))
    names = list(dict.fromkeys(row["category"] for row in rows))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH * len(presets)}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDE}" height="{HIGH * len(presets)}" fill="#ffffff"/>',
    ]
    for number, preset in enumerate(presets):
        own = [row for row in rows if row["preset"] == preset]
        panel = _frame(preset, columns) + list(_lines(own, names, columns))
        parts += [f'<g transform="translate(0 {number * HIGH})">', *panel, "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _x(column: int, columns: Sequence[str]) -> float:
    return LEFT + column * (WIDE - LEFT - RIGHT) / max(len(columns) - 1, 1)


def _y(value: float) -> float:
    return TOP + (1 - (max(value, LOW) - LOW) / (1 - LOW)) * (HIGH - TOP - BOTTOM)


def _text(x: float, y: float, told: str, more: str = 'text-anchor="middle"') -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{told}</text>'


def _frame(title: str, columns: Sequence[str]) -> list[str]:
    """Return title, grid and axes of a panel."""
    middle = (LEFT + WIDE - RIGHT) / 2
    parts = [
        _text(middle, 18, title),
        _text(middle, HIGH - 4, "good pictures"),
    ]
    for tick in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        parts.append(f'<path d="M{LEFT} {_y(tick):.1f}H{WIDE - RIGHT}" stroke="#dddddd"/>')
        parts.append(_text(LEFT - 8, _y(tick) + 4, f"{tick:.1f}", 'text-anchor="end"'))
    return parts + [_text(_x(n, columns), HIGH - 20, shots) for n, shots in enumerate(columns)]


def _lines(
    rows: Sequence[dict[str, Any]], names: Sequence[str], columns: Sequence[str]
) -> Iterator[str]:
    """Yield the line, the bars and the label of every category, its colour that of ``names``."""
    ends: dict[int, float] = {}
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        found = [
            [r["image_auroc"] for r in rows if (r["category"], r["shots"]) == (name, c)]
            for c in columns
        ]
        points = [(_x(n, columns), values) for n, values in enumerate(found) if values]
        if not points:
            continue
        line = " ".join(f"{x:.1f},{_y(mean(values)):.1f}" for x, values in points)
        yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for x, values in points:
            shift = x + (number - len(names) / 2) * 1.6
            span = f"M{shift:.1f} {_y(min(values)):.1f}V{_y(max(values)):.1f}"
            yield f'<path d="{span}" stroke="{colour}"/>'
        ends[number] = _y(mean(points[-1][1]))
    order = sorted(ends, key=ends.__getitem__)
    for place, number in zip(_apart([ends[n] for n in order]), order, strict=True):
        colour = COLOURS[number % len(COLOURS)]
        yield _text(WIDE - RIGHT + 10, place + 4, names[number], f'fill="{colour}"')


def _apart(places: Sequence[float], least: float = 15.0) -> list[float]:
    """Return label places, in order, moved down until none covers another."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + least) if found else place)
    return found
