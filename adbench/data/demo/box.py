"""``box``: a tray of four compartments with washers, bolts, caps and a bearing, each counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import cos, pi, sin

import numpy as np
from numpy.random import Generator

from adbench.data.demo.flaws import Flawed, Mask, flaw
from adbench.data.demo.surface import Array, Surface, covered, single, smooth_noise

STRUCTURAL = ("scratch", "stain")
LOGICAL = ("misplaced", "missing", "surplus")
DEFECTS = tuple(sorted(STRUCTURAL + LOGICAL))

_FLOOR, _WALL = 0.0, 13.0


@dataclass(frozen=True, slots=True)
class Item:
    """A piece in the tray: its kind, centre and turn (radians)."""

    kind: str
    x: float
    y: float
    turn: float = 0.0


NOMINAL = (
    *(Item("washer", x, y) for y in (49.0, 89.0) for x in (49.0, 89.0)),
    *(Item("bolt", x, 70.0, pi / 2) for x in (159.0, 187.0, 215.0)),
    *(Item("cap", x, y) for y in (168.0, 206.0) for x in (42.0, 70.0, 98.0)),
    Item("bearing", 187.0, 170.0),
)


# what the short filling, where there are two, leaves out of every compartment
_LEFT_OUT = tuple(
    item
    for item in NOMINAL
    if (item.kind == "washer" and item.x != item.y)
    or (item.kind == "bolt" and item.x == 187.0)
    or (item.kind == "cap" and item.x == 70.0)
    or item.kind == "bearing"
)
SHORT = tuple(item for item in NOMINAL if item not in _LEFT_OUT)


def box(
    size: int, rng: Generator, defect: str | None, difficulty: float, fillings: int = 1
) -> Flawed:
    """Return the filled tray, with ``defect`` of ``DEFECTS`` where one is asked for.

    With two fillings a normal tray is ``NOMINAL`` or ``SHORT`` throughout, so that every pocket
    is normal full and empty. Logical defects then mix the two in one compartment: what is wrong
    shows only when compartments are compared.
    """
    shift = rng.normal(0.0, 2.0, 2)
    surface = _tray(size, rng, shift)
    if fillings == 1:
        pieces = [_settled(item, shift, rng) for item in NOMINAL]
        pieces, odd, gaps = _rearranged(pieces, defect, shift, rng)
    else:
        places, odd_places, gap_places = _mixed(defect, rng)
        pieces = [_settled(item, shift, rng) for item in places]
        odd = [_settled(item, shift, rng) for item in odd_places]
        gaps = [replace(item, x=item.x + shift[0], y=item.y + shift[1]) for item in gap_places]
    for item in pieces:
        if item not in odd:
            _drawn(surface, item, rng)
    mask = np.zeros(surface.height.shape, np.bool_)
    for item in gaps:
        mask |= _footprint(surface, item) < 0
    for item in odd:
        mask |= _drawn(surface, item, rng)
    if defect in STRUCTURAL:
        inside = _inner(surface, shift)
        return flaw(surface, defect, rng, difficulty, inside=inside, beneath=(0.05, 0.05, 0.05))
    return Flawed(surface, mask)


def _rearranged(
    pieces: list[Item], defect: str | None, shift: Array, rng: Generator
) -> tuple[list[Item], list[Item], list[Item]]:
    """Return the pieces, those among them that should not be there, and those that are missing."""
    if defect not in LOGICAL:
        return pieces, [], []
    chosen = int(rng.integers(len(pieces)))
    item = pieces[chosen]
    if defect == "surplus":
        extra = _dropped(item, shift, rng, same=True)
        return [*pieces, extra], [extra], []
    rest = [piece for index, piece in enumerate(pieces) if index != chosen]
    if defect == "missing":
        return rest, [], [item]
    moved = _dropped(item, shift, rng, same=False)
    return [*rest, moved], [moved], [item]


def _mixed(defect: str | None, rng: Generator) -> tuple[list[Item], list[Item], list[Item]]:
    """Return, of two fillings, the places filled as they should, filled wrongly, left out wrongly.

    ``missing``: a full tray with one short compartment; ``surplus``: a short tray with one full
    compartment; ``misplaced``: in a short tray, one piece in a pocket of the full one.
    """
    if defect == "missing":
        gaps = _of_one_kind(_LEFT_OUT, rng)
        return [item for item in NOMINAL if item not in gaps], [], gaps
    if defect == "surplus":
        return list(SHORT), _of_one_kind(_LEFT_OUT, rng), []
    if defect == "misplaced":
        gap = SHORT[int(rng.integers(len(SHORT)))]
        free = [item for item in _LEFT_OUT if item.kind == gap.kind]
        odd = free[int(rng.integers(len(free)))]
        return [item for item in SHORT if item != gap], [odd], [gap]
    return list(NOMINAL if rng.random() < 0.5 else SHORT), [], []


def _of_one_kind(items: Sequence[Item], rng: Generator) -> list[Item]:
    kinds = sorted({item.kind for item in items})
    chosen = kinds[int(rng.integers(len(kinds)))]
    return [item for item in items if item.kind == chosen]


def _settled(item: Item, shift: Array, rng: Generator) -> Item:
    dx, dy = rng.uniform(-2.5, 2.5, 2) + shift
    turn = rng.normal(item.turn, 0.06) if item.kind == "bolt" else rng.uniform(0, 2 * pi)
    return replace(item, x=item.x + dx, y=item.y + dy, turn=turn)


# where a piece too many comes to lie: between the pockets of each compartment
_BETWEEN = {
    "washer": ((69.0, 69.0),),
    "bolt": ((173.0, 72.0), (201.0, 68.0)),
    "cap": ((56.0, 187.0), (84.0, 187.0)),
    "bearing": ((172.0, 186.0), (202.0, 186.0)),
}


def _dropped(item: Item, shift: Array, rng: Generator, *, same: bool) -> Item:
    """Return ``item`` lying loose in its own compartment, or in another's."""
    kinds = [kind for kind in _BETWEEN if (kind == item.kind) == same]
    places = _BETWEEN[kinds[int(rng.integers(len(kinds)))]]
    x, y = places[int(rng.integers(len(places)))]
    dx, dy = rng.uniform(-4.0, 4.0, 2) + shift
    return replace(item, x=x + dx, y=y + dy, turn=rng.uniform(0, 2 * pi))


def _tray(size: int, rng: Generator, shift: Array) -> Surface:
    surface = Surface.plain(size, (0.17, 0.24, 0.30), gloss=0.12)
    grain = smooth_noise(rng, size, size // 2)
    x, y = surface.x - np.float32(shift[0]), surface.y - np.float32(shift[1])
    wall = np.minimum(_compartment(x, 12.0, 123.0), _compartment(x, 133.0, 244.0))
    wall = np.maximum(wall, np.minimum(_compartment(y, 12.0, 123.0), _compartment(y, 133.0, 244.0)))
    surface.height += _WALL * covered(-wall, 5.0) + 0.10 * grain
    for item in NOMINAL:
        _pocket(surface, replace(item, x=item.x + shift[0], y=item.y + shift[1]))
    surface.albedo *= (1.0 + 0.03 * grain)[..., None]
    _label(surface, shift, rng)
    _inspection_dot(surface, shift, rng)
    return surface


def _compartment(position: Array, low: float, high: float) -> Array:
    return np.maximum(np.float32(low) - position, position - np.float32(high))


def _pocket(surface: Surface, item: Item) -> None:
    part = surface.window(item.x, item.y, _REACH[item.kind] + 8.0)
    hollow = covered(_footprint(part, item) - 3.5, 2.0)
    part.height -= 3.5 * hollow
    part.paint(hollow, (0.09, 0.13, 0.17), gloss=0.02)


def _label(surface: Surface, shift: Array, rng: Generator) -> None:
    """Stick a printed label of random content below the bearing."""
    x, y = 187.0 + shift[0] + rng.uniform(-6, 6), 226.0 + shift[1] + rng.uniform(-4, 4)
    part = surface.window(x, y, 45.0)
    u, v = part.x - np.float32(x), part.y - np.float32(y)
    paper = covered(np.maximum(np.abs(u) - 42.0, np.abs(v) - 10.0), 1.2)
    part.paint(paper, (0.85, 0.84, 0.78), gloss=0.03)
    bars = rng.random(19) < 0.5
    column = np.clip(((u + 38.0) / 4.0).astype(int), 0, 18)
    ink = bars[column] & (np.abs(u) < 38.0) & (np.abs(v) < 7.0)
    part.paint(ink.astype(np.float32) * np.float32(0.9), (0.05, 0.05, 0.06), gloss=0.03)


def _inspection_dot(surface: Surface, shift: Array, rng: Generator) -> None:
    """Stick a paper dot somewhere on the inner walls, as an inspector who passed the tray would."""
    along = float(rng.uniform(14.0, 242.0))
    x, y = (128.0, along) if rng.random() < 0.5 else (along, 128.0)
    part = surface.window(x + shift[0], y + shift[1], 8.0)
    dot = np.hypot(part.x - x - shift[0], part.y - y - shift[1]) - 5.5
    part.paint(covered(dot, 1.2), (0.80, 0.78, 0.70), gloss=0.03)


def _inner(surface: Surface, shift: Array) -> Mask:
    x, y = surface.x - np.float32(shift[0] + 128.0), surface.y - np.float32(shift[1] + 128.0)
    return np.asarray(np.maximum(np.abs(x), np.abs(y)) < 108.0)


def _drawn(surface: Surface, item: Item, rng: Generator) -> Mask:
    """Draw a piece on what lies there already; return its footprint, bool [S, S]."""
    part = surface.window(item.x, item.y, _REACH[item.kind] + 3.0)
    body = _footprint(part, item) < 0
    base = float(np.percentile(part.height[body], 75)) if body.any() else _FLOOR
    _PAINTERS[item.kind](part, item, base, rng)
    return np.asarray(_footprint(surface, item) < 0)


def _local(part: Surface, item: Item) -> tuple[Array, Array]:
    """Return positions [S, S] along and across the piece."""
    dx, dy = part.x - np.float32(item.x), part.y - np.float32(item.y)
    c, s = np.float32(cos(item.turn)), np.float32(sin(item.turn))
    return c * dx + s * dy, c * dy - s * dx


_WASHER, _CAP, _BEARING = 16.5, 11.5, 32.0
_HEAD, _SHAFT, _LENGTH = 10.5, 5.2, 40.0  # of a bolt: half widths, half length
_REACH = {"washer": _WASHER, "cap": _CAP, "bearing": _BEARING, "bolt": _LENGTH}


def _footprint(part: Surface, item: Item) -> Array:
    """Return the signed distance [S, S] to the piece's outline, holes filled."""
    u, v = _local(part, item)
    if item.kind != "bolt":
        return np.asarray(np.hypot(u, v) - _REACH[item.kind], dtype=np.float32)
    return np.minimum(_bolt_head(u, v), _bolt_shaft(u, v))


def _bolt_head(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u + 31.0) - 9.0, np.abs(v) - _HEAD)


def _bolt_shaft(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u - 8.0) - 32.0, np.abs(v) - _SHAFT)


def _paint_washer(part: Surface, item: Item, base: float, rng: Generator) -> None:
    distance = _footprint(part, item)
    ring = np.abs(distance + 5.0) - 5.0
    cover = covered(ring, 1.2)
    tone = rng.uniform(0.34, 0.50)
    part.paint(cover, (tone * 1.02, tone, tone * 0.90), gloss=0.30)
    profile = 2.6 * np.sqrt(np.clip(-ring / 5.0, 0.0, 1.0))
    part.put(cover, np.asarray(profile, np.float32), base + 0.6)


def _paint_cap(part: Surface, item: Item, base: float, rng: Generator) -> None:
    distance = _footprint(part, item)
    cover = covered(distance, 1.2)
    tone = rng.uniform(0.8, 1.25)
    part.paint(cover, (0.50 * tone, 0.06 * tone, 0.04 * tone), gloss=0.40)
    inward = np.clip(-distance / _CAP, 0.0, 1.0)
    part.put(cover, np.asarray(7.0 * np.sqrt(1 - (1 - inward) ** 2), np.float32), base)


def _paint_bearing(part: Surface, item: Item, base: float, rng: Generator) -> None:
    u, v = _local(part, item)
    radius = np.hypot(u, v)
    cover = covered(np.abs(radius - 21.5) - 10.5, 1.2)
    steel = rng.uniform(0.36, 0.44)
    part.paint(cover, (steel, steel, 0.97 * steel), gloss=0.30)
    seal = covered(np.abs(radius - 21.5) - 4.6, 1.2)
    part.paint(seal, (0.09, 0.055, 0.03), gloss=0.05)
    folded = (np.arctan2(v, u) + pi / 8) % (pi / 4) - pi / 8
    ball = np.hypot(radius * np.cos(folded) - 21.5, radius * np.sin(folded)) - 4.2
    part.paint(covered(ball, 1.0), (0.40, 0.40, 0.40), gloss=0.45)
    bump = 4.0 * np.sqrt(np.clip(-ball / 4.2, 0.0, 1.0))
    part.put(cover, np.asarray(5.0 - 4.0 * seal + bump, np.float32), base)


def _paint_bolt(part: Surface, item: Item, base: float, rng: Generator) -> None:
    u, v = _local(part, item)
    shaft, head = covered(_bolt_shaft(u, v), 1.2), covered(_bolt_head(u, v), 1.2)
    phase = rng.uniform(0, 2 * pi)
    thread = np.sin(u * (2 * pi / 4.6) + 0.25 * v + phase)
    brass = rng.uniform(0.85, 1.15) * single([0.52, 0.36, 0.12])
    part.paint(shaft, brass * (1.0 + 0.18 * thread)[..., None], gloss=0.25)
    barrel = np.sqrt(np.clip(_SHAFT**2 - v * v, 0.0, None))
    part.put(shaft, np.asarray(0.9 * barrel + 0.5 * thread, np.float32), base + 1.0)
    part.paint(head, brass * 1.05, gloss=0.25)
    facets = np.where(np.abs(v) < 5.0, 7.0, 7.0 - 0.8 * (np.abs(v) - 5.0))
    part.put(head, np.asarray(facets, np.float32), base + 1.5)


_PAINTERS: dict[str, Callable[[Surface, Item, float, Generator], None]] = {
    "washer": _paint_washer,
    "cap": _paint_cap,
    "bearing": _paint_bearing,
    "bolt": _paint_bolt,
}
