"""Parts of a chart as inline SVG: axes, labels and marks. Colours come from the classes of style.css.

Every text is escaped. Positions are in units of the chart, whose size is `WIDTH` x `HEIGHT`.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 440, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 46  # margins around the plot, for labels


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high` with ticks.

    Args:
        low, high: values at its ends. Equal values are not allowed.
        ticks: (value, text) of each tick.
        label: what it shows, with the unit.
    """

    low: float
    high: float
    ticks: list[tuple[float, str]]
    label: str

    def share(self, value: float) -> float:
        """Return the position of a value between 0 (low) and 1 (high). Values beyond the ends are moved to the ends."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


def unit_axis(label: str) -> Axis:
    """Return an axis from 0 to 1 with a tick every 0.25."""
    return Axis(0, 1, [(tick / 4, f"{tick / 4:g}") for tick in range(5)], label)


def count_axis(highest: int, label: str) -> Axis:
    """Return an axis from 0 to at least `highest` with whole numbers at its ticks."""
    steps = (digit * 10**power for power in itertools.count() for digit in (1, 2, 5))
    step = next(step for step in steps if step * 5 >= highest)
    high = step * max(1, -(-highest // step))
    return Axis(0, high, [(value, f"{value:,}") for value in range(0, high + 1, step)], label)


def x_of(axis: Axis, value: float) -> float:
    return LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT)


def y_of(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)


def chart(name: str, parts: Iterable[Markup], height: float = HEIGHT) -> Markup:
    """Return an SVG element.

    Args:
        name: what it shows, for screen readers.
        parts: its marks.
        height: of the chart, whose width is `WIDTH`.
    """
    return Markup('<svg class="chart" viewBox="0 0 {w:g} {h:g}" role="img" aria-label="{name}">{parts}</svg>').format(
        w=WIDTH, h=height, name=name, parts=Markup("").join(parts)
    )


def axes(x: Axis, y: Axis) -> list[Markup]:
    """Return both axes with their ticks, labels and the horizontal lines of the grid."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value, words in y.ticks:
        at = y_of(y, value)
        parts += [line(LEFT, at, right, at, "grid"), text(LEFT - 7, at + 4, words, "tick end")]
    for value, words in x.ticks:
        at = x_of(x, value)
        parts += [line(at, bottom, at, bottom + 4, "axis"), text(at, bottom + 18, words, "tick middle")]
    middle = (TOP + bottom) / 2
    return [
        *parts,
        line(LEFT, bottom, right, bottom, "axis"),
        text((LEFT + right) / 2, HEIGHT - 8, x.label, "label middle"),
        Markup('<text class="label middle" transform="translate(13 {y:g}) rotate(-90)">{words}</text>').format(
            y=middle, words=y.label
        ),
    ]


def line(x1: float, y1: float, x2: float, y2: float, name: str) -> Markup:
    return Markup('<line class="{c}" x1="{a:.1f}" y1="{b:.1f}" x2="{d:.1f}" y2="{e:.1f}"/>').format(
        c=name, a=x1, b=y1, d=x2, e=y2
    )


def text(x: float, y: float, words: str, name: str) -> Markup:
    return Markup('<text class="{c}" x="{x:.1f}" y="{y:.1f}">{words}</text>').format(c=name, x=x, y=y, words=words)


def bar(x: float, y: float, width: float, height: float, name: str, tip: str) -> Markup:
    """Return a rectangle with a tip that the browser shows under the pointer."""
    return Markup(
        '<rect class="{c}" x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"><title>{tip}</title></rect>'
    ).format(c=name, x=x, y=y, w=width, h=height, tip=tip)


def dot(x: float, y: float, radius: float, name: str, tip: str | None = None) -> Markup:
    """Return a circle, with a tip if given."""
    inner = Markup("<title>{}</title>").format(tip) if tip else Markup("")
    return Markup('<circle class="{c}" cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}">{inner}</circle>').format(
        c=name, x=x, y=y, r=radius, inner=inner
    )


def curve(points: Iterable[tuple[float, float]], name: str) -> Markup:
    """Return a line through points (x, y) of the chart."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="{c}" points="{places}"/>').format(c=name, places=places)
