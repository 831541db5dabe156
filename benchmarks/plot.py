"""Lines over logarithmic axes, as an SVG of a few hundred bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 20, 130
#: Told apart by people who see few colours, and on dark pages too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GREY = "#888888"


@dataclass(frozen=True, slots=True)
class Line:
    """A name and its points; all numbers are above zero."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class _Axis:
    """Powers of ten from one end of a stretch of pixels to the other."""

    low: int
    high: int
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 1)


def _axis(values: Sequence[float], begin: float, end: float) -> _Axis:
    low = math.floor(math.log10(min(values)))
    return _Axis(low, max(low + 1, math.ceil(math.log10(max(values)))), begin, end)


def plot(lines: Sequence[Line], *, across: str) -> str:
    """Draw the lines; `across` says what the horizontal axis counts."""
    points = [point for line in lines for point in line.points]
    x = _axis([point[0] for point in points], LEFT, WIDTH - RIGHT)
    y = _axis([point[1] for point in points], HEIGHT - BOTTOM, TOP)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="13">'
    )
    return "\n".join([head, *_grid(x, y, across), *_drawn(lines, x, y), "</svg>", ""])


def _grid(x: _Axis, y: _Axis, across: str) -> Iterator[str]:
    for power in range(y.low, y.high + 1):
        at = y(10.0**power)
        yield f'<path d="M{LEFT} {at}H{WIDTH - RIGHT}" stroke="{GREY}" stroke-opacity=".4"/>'
        yield _text(LEFT - 8, at + 4, f"{10.0**power:,g}", anchor="end")
    for power in range(x.low, x.high + 1):
        yield _text(x(10.0**power), HEIGHT - BOTTOM + 18, f"{10**power:,}", anchor="middle")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 38, across, anchor="middle")


def _drawn(lines: Sequence[Line], x: _Axis, y: _Axis) -> Iterator[str]:
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        places = [(x(across), y(up)) for across, up in line.points]
        path = "M" + "L".join(f"{across} {up}" for across, up in places)
        yield f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        yield from (f'<circle cx="{a}" cy="{u}" r="3" fill="{colour}"/>' for a, u in places)
        row = HEIGHT - BOTTOM + 62 + 18 * (number // 2)
        column = LEFT + 330 * (number % 2)
        yield f'<path d="M{column} {row - 4}h24" stroke="{colour}" stroke-width="3"/>'
        yield _text(column + 32, row, line.name)


def _text(across: float, up: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{across}" y="{up}" text-anchor="{anchor}" fill="{GREY}">{escape(text)}</text>'
