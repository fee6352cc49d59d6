"""Line charts as SVG, by hand: a chart of a few points needs no library."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import count

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 40, 50
COLOURS = ("#1a73e8", "#e8710a", "#188038", "#9334e6", "#5f6368")
TICKS_MAX = 6


@dataclass(frozen=True, slots=True)
class Line:
    """Points in the order in which they are joined."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over named positions: x counts 0, 1, 2, … and `labels` says what that is."""

    title: str
    x_name: str
    y_name: str
    labels: Sequence[str]
    lines: Sequence[Line]

    def svg(self) -> str:
        """Draw it; y begins at 0."""
        ticks = _ticks(max(y for line in self.lines for _, y in line.points))
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

        def place(x: float, y: float) -> tuple[float, float]:
            along = x / max(1, len(self.labels) - 1)
            return LEFT + along * (right - LEFT), bottom - y / ticks[-1] * (bottom - TOP)

        parts = [
            _tag("rect", width=WIDTH, height=HEIGHT, fill="#ffffff"),
            _text(LEFT, TOP - 18, self.title, size=14),
            _text((LEFT + right) / 2, HEIGHT - 12, self.x_name, anchor="middle"),
            _text(LEFT - 8, TOP + 4, self.y_name, anchor="end"),
        ]
        for tick in ticks:
            _, y = place(0, tick)
            parts.append(_tag("line", x1=LEFT, x2=right, y1=y, y2=y, stroke="#dadce0"))
            if tick < ticks[-1]:
                parts.append(_text(LEFT - 8, y + 4, f"{tick:,g}", anchor="end"))
        for number, label in enumerate(self.labels):
            x, _ = place(number, 0)
            parts.append(_text(x, bottom + 18, label, anchor="middle"))
        for line, colour, y in zip(self.lines, COLOURS, count(TOP + 10, 18), strict=False):
            points = [place(*point) for point in line.points]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(_tag("polyline", points=path, fill="none", stroke=colour))
            parts += [_tag("circle", cx=x, cy=y, r=3, fill=colour) for x, y in points]
            parts.append(_tag("rect", x=right + 20, y=y - 9, width=10, height=10, fill=colour))
            parts.append(_text(right + 36, y, line.name))
        root = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">'
        return "\n".join([root, *parts, "</svg>", ""])


def _tag(name: str, **attributes: str | float) -> str:
    found = " ".join(f'{key}="{_number(value)}"' for key, value in attributes.items())
    return f"<{name} {found}/>"


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    style = f'font-family="sans-serif" font-size="{size}" fill="#202124"'
    return f"<text {where} {style}>{escape(text)}</text>"


def _number(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


def _ticks(most: float) -> list[float]:
    """Round steps from 0 to just above the greatest value."""
    rough = most / TICKS_MAX
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * digit for digit in (1, 2, 5, 10) if power * digit >= rough)
    return [step * number for number in range(math.ceil(most / step) + 1)]
