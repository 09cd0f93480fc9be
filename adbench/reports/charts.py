"""Charts as inline SVG whose colours are the page's, so that they print and turn dark with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 340, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 34
HUES = 8
"""Line styles that the page's sheet has: colours that colour-blind people tell apart, dashes."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis, or one in powers of ten."""

    name: str
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Return where a value lies, 0..1."""
        low, high, here = self.low, self.high, value
        if self.log:
            low, high, here = (math.log10(max(v, 1e-12)) for v in (low, high, value))
        return min(max((here - low) / max(high - low, 1e-12), 0.0), 1.0)

    def ticks(self) -> list[float]:
        """Return up to six round values."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1, 2, 5) if last - first <= 2 else (1,)
            values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
            return [value for value in values if self.low <= value <= self.high] or [self.low]
        span = max(self.high - self.low, 1e-12)
        step = 10 ** math.floor(math.log10(span / 4))
        step = next(s for s in (step, 2 * step, 5 * step, 10 * step) if span / s <= 5)
        first = math.ceil(self.low / step - 1e-9)
        return [step * n for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _place(axes: tuple[Axis, Axis], x: float, y: float) -> tuple[float, float]:
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    return _LEFT + axes[0].share(x) * wide, _TOP + (1 - axes[1].share(y)) * high


def _frame(axes: tuple[Axis, Axis], inner: str, title: str) -> Markup:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for tick in axes[0].ticks():
        x, _ = _place(axes, tick, axes[1].low)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 13}" class="mid">{tick:.4g}</text>')
    for tick in axes[1].ticks():
        _, y = _place(axes, axes[0].low, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" class="end">{tick:.4g}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 5}" class="mid">{escape(axes[0].name)}</text>')
    parts.append(
        f'<text transform="translate(11 {(_TOP + bottom) / 2}) rotate(-90)" class="mid">'
        f"{escape(axes[1].name)}</text>"
    )
    return Markup(
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>{"".join(parts)}{inner}</svg>'
    )


def line_chart(
    title: str,
    axes: tuple[Axis, Axis],
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> Markup:
    """Return lines with a legend beneath; every line has a colour and a dash of its own."""
    inner, legend = [], []
    for number, (name, (xs, ys)) in enumerate(lines.items()):
        points = [
            _place(axes, x, y)
            for x, y in zip(xs, ys, strict=False)
            if math.isfinite(x) and math.isfinite(y)
        ]
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        inner.append(f'<polyline class="line hue{number % HUES}" points="{text}"/>')
        legend.append(
            f'<span class="key"><svg viewBox="0 0 22 8"><line class="line hue{number % HUES}" '
            f'x1="0" y1="4" x2="22" y2="4"/></svg>{escape(name)}</span>'
        )
    drawn = _frame(axes, "".join(inner), title)
    return Markup(f"<figure><figcaption>{escape(title)}</figcaption>{drawn}") + Markup(
        f'<div class="legend">{"".join(legend)}</div></figure>'
    )


def scatter(
    title: str, axes: tuple[Axis, Axis], points: Sequence[tuple[str, float, float]]
) -> Markup:
    """Return points with numbers, which the legend beneath explains."""
    inner, legend = [], []
    for number, (name, x, y) in enumerate(points):
        left, top = _place(axes, x, y)
        hue = number % HUES
        inner.append(
            f"<g><title>{escape(name)}: {x:.4g}, {y:.4g}</title>"
            f'<circle class="dot hue{hue}" cx="{left:.1f}" cy="{top:.1f}" r="5"/>'
            f'<text x="{left + 7:.1f}" y="{top - 4:.1f}">{number + 1}</text></g>'
        )
        legend.append(f'<span class="key">{number + 1} {escape(name)}</span>')
    drawn = _frame(axes, "".join(inner), title)
    return Markup(f'<figure class="wide"><figcaption>{escape(title)}</figcaption>{drawn}') + Markup(
        f'<div class="legend">{"".join(legend)}</div></figure>'
    )


def bar_chart(title: str, shares: Mapping[str, float]) -> Markup:
    """Return one horizontal bar a name, largest first; lengths are shares of the largest."""
    row, wide = 34, 340
    largest = max([*shares.values(), 1e-12])
    parts = []
    for number, (name, share) in enumerate(sorted(shares.items(), key=lambda item: -item[1])):
        top = number * row
        length = max(share, 0) / largest * (wide - 60)
        parts.append(f'<text x="6" y="{top + 13}">{escape(name)}</text>')
        parts.append(
            f'<rect class="bar hue0" x="6" y="{top + 17}" width="{length:.1f}" height="10"/>'
            f'<text x="{length + 11:.1f}" y="{top + 26}">{share:.2f}</text>'
        )
    drawn = Markup(
        f'<svg class="chart" viewBox="0 0 {wide} {row * len(shares) + 6}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
    return Markup(f"<figure><figcaption>{escape(title)}</figcaption>{drawn}</figure>")


_BINS = 48


def histogram(
    groups: Mapping[str, Sequence[float]], threshold: float | None, best: float | None
) -> Markup:
    """Return histograms of scores, one a row on one axis, with lines that a script can move.

    Args:
        groups: name -> scores; every row has a height scale of its own.
        threshold: of the run; ``best``: with the largest F1 on the test set, drawn apart.
    """
    values = [score for scores in groups.values() for score in scores]
    if not values:
        return Markup()
    low, high = min(values), max(values)
    pad = 0.02 * (high - low) or 0.5
    axis = Axis("score", low - pad, high + pad)
    row, wide = 54, 640
    rows = {name: scores for name, scores in groups.items() if scores}
    bottom = row * len(rows)
    parts = []
    for number, (name, scores) in enumerate(rows.items()):
        parts += _bars(axis, scores, number, row, wide)
        parts.append(f'<text x="4" y="{number * row + 16}">{escape(name)}: {len(scores)}</text>')
    for tick in axis.ticks():
        x = min(max(axis.share(tick) * wide, 14), wide - 14)  # whole at either end
        parts.append(f'<text x="{x:.1f}" y="{bottom + 14}" class="mid">{tick:.4g}</text>')
    for kind, value in (("best", best), ("threshold", threshold)):
        if value is not None or kind == "threshold":
            x = axis.share(axis.high if value is None else value) * wide
            parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{bottom}"/>')
    return Markup(
        f'<svg class="histogram" viewBox="0 0 {wide} {bottom + 20}" role="img" '
        f'aria-label="histograms of scores" data-low="{axis.low!r}" data-high="{axis.high!r}" '
        f'data-wide="{wide}">{"".join(parts)}</svg>'
    )


def _bars(axis: Axis, scores: Sequence[float], number: int, row: int, wide: int) -> list[str]:
    counts = [0] * _BINS
    for score in scores:
        counts[min(int(axis.share(score) * _BINS), _BINS - 1)] += 1
    top, bin_wide = max(counts), wide / _BINS
    return [
        f'<rect class="bar hue{number % HUES}" x="{place * bin_wide:.1f}" '
        f'y="{(number + 1) * row - count / top * (row - 24):.1f}" '
        f'width="{bin_wide - 1:.1f}" height="{count / top * (row - 24):.1f}"/>'
        for place, count in enumerate(counts)
        if count
    ]
