"""The charts of the report as inline SVG. N = number of questions, M = number of masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from gemma_lisa.safety.short_text import count_of

from .. import error_classes
from .svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    Axis,
    axes,
    bar,
    chart,
    count_axis,
    curve,
    dot,
    line,
    text,
    unit_axis,
    x_of,
    y_of,
)

IOU_BINS = 20  # of the histogram
SCORE_BINS = 10  # of the calibration
# Ends of the bins of the target's size, as shares of the image
SIZE_EDGES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
DOTS = 400  # maximum number of questions that are drawn as dots
BAR_HEIGHT = 34
EDGE = 3.5  # largest radius of a dot that stays inside of the plot


@dataclass(frozen=True)
class Bin:
    """Questions or masks with values in a range: low <= value < high, or <= high in the last bin.

    Args:
        low, high: ends of the range.
        count: number of values.
        mean, lower, upper: mean and quartiles of what is measured; None without values.
        value: mean of the values that the bins divide; None without values.
    """

    low: float
    high: float
    count: int
    mean: float | None
    lower: float | None
    upper: float | None
    value: float | None


def binned(values: np.ndarray, measured: np.ndarray, edges: Sequence[float]) -> list[Bin]:
    """Return one bin per pair of neighbouring edges. Values beyond the edges are in the first and the last bin.

    Args:
        values, measured: (N,) float.
        edges: increasing.
    """
    at = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    bins = []
    for index, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        inside, own = measured[at == index], values[at == index]
        numbers = [None] * 4
        if len(inside):
            numbers = [float(number) for number in (inside.mean(), *np.percentile(inside, [25, 75]), own.mean())]
        bins.append(Bin(low, high, len(inside), *numbers))
    return bins


def calibration_error(bins: list[Bin]) -> float | None:
    """Return the expected calibration error: mean of |predicted score - real IoU| of the bins, by their counts."""
    total = sum(part.count for part in bins)
    return sum(part.count * abs(part.value - part.mean) for part in bins if part.count) / total if total else None


def histogram_bins(ious: np.ndarray) -> list[Bin]:
    """Return the bins of `iou_histogram`."""
    return binned(ious, ious, np.linspace(0, 1, IOU_BINS + 1))


def iou_histogram(ious: np.ndarray) -> Markup:
    """Return the number of questions (N,) for each range of the IoU."""
    bins = histogram_bins(ious)
    x, y = unit_axis("IoU of prediction and target"), count_axis(max(part.count for part in bins), "questions")
    marks = [
        bar(
            x_of(x, part.low) + 1,
            y_of(y, part.count),
            x_of(x, part.high) - x_of(x, part.low) - 2,
            y_of(y, 0) - y_of(y, part.count),
            "mark",
            f"IoU {part.low:.2f} to {part.high:.2f}: {count_of(part.count, 'question')}",
        )
        for part in bins
        if part.count
    ]
    mean = float(ious.mean())
    at = x_of(x, mean)
    side, shift = ("end", -6) if mean > 0.5 else ("start", 6)
    marks += [
        line(at, y_of(y, y.high), at, y_of(y, 0), "mean"),
        text(at + shift, 24, f"mean {mean:.2f}", f"note {side}"),
    ]
    name = f"Histogram of the IoU of {count_of(len(ious), 'question')} with a target: mean {mean:.2f}."
    return chart(name, [*axes(x, y), *marks])


def size_bins(shares: np.ndarray, ious: np.ndarray) -> list[Bin]:
    """Return the IoU for each range of the target's size.

    Args:
        shares: (N,) area of the target / area of the image.
        ious: (N,).
    """
    return binned(shares, ious, SIZE_EDGES)


def size_chart(shares: np.ndarray, ious: np.ndarray) -> Markup:
    """Return the IoU against the target's size: a dot per question, mean and quartiles per bin. Arguments: `size_bins`.

    At most `DOTS` questions are dots, drawn at random; means and quartiles are of all questions.
    """
    bins = size_bins(shares, ious)
    ticks = [(index, words) for index, words in enumerate(size_names())]
    x = Axis(-0.5, len(bins) - 0.5, ticks, "area of the target, % of the image")
    y = unit_axis("IoU")
    generator = np.random.default_rng(0)
    shown = generator.permutation(len(ious))[:DOTS]
    places = np.clip(np.searchsorted(SIZE_EDGES, shares, side="right") - 1, 0, len(bins) - 1)
    jitter = generator.uniform(-0.32, 0.32, len(ious))
    marks = [dot(x_of(x, places[at] + jitter[at]), y_of(y, ious[at]), 2, "faint") for at in shown]
    points = []
    for index, part in enumerate(bins):
        if not part.count:
            continue
        at = x_of(x, index)
        tip = (
            f"{ticks[index][1]}% of the image: mean IoU {part.mean:.2f}, half of them {part.lower:.2f} to "
            f"{part.upper:.2f}, {count_of(part.count, 'question')}"
        )
        marks.append(line(at, y_of(y, part.lower), at, y_of(y, part.upper), "spread"))
        points.append((at, y_of(y, part.mean), tip))
    marks += [curve([point[:2] for point in points], "trend"), *(dot(px, py, 5, "mark", tip) for px, py, tip in points)]
    name = f"IoU against the size of the target, {count_of(len(ious), 'question')}; the numbers are in the table below."
    return chart(name, [*axes(x, y), *marks])


def size_names() -> list[str]:
    """Return the range of each bin of `size_bins` in percent of the image."""
    percents = [f"{100 * edge:g}" for edge in SIZE_EDGES]
    return [
        f"< {percents[1]}",
        *(f"{low}–{high}" for low, high in zip(percents[1:-2], percents[2:-1], strict=True)),
        f"> {percents[-2]}",
    ]


def error_chart(errors: dict[str, dict[str, float]]) -> Markup:
    """Return a bar per class of error, as long as its cost.

    Args:
        errors: class: {"count": questions, "share": of all questions, "cost": IoU that it costs on average}.
    """
    highest = max([error["cost"] for error in errors.values()], default=0) or 1
    marks, space = [], WIDTH - 110 - 165
    for row, (name, error) in enumerate(errors.items()):
        top = row * BAR_HEIGHT + 6
        width = space * error["cost"] / highest
        cost = f"−{error['cost']:.3f} · " if error["count"] else ""
        words = f"{cost}{count_of(error['count'], 'question')}"
        marks += [
            text(102, top + 17, name.replace("_", " "), "label end"),
            bar(
                110,
                top,
                width,
                BAR_HEIGHT - 10,
                "rest" if name == error_classes.RIGHT else "mark",
                f"{name}: {words}, {error['share']:.1%} of all",
            ),
            text(110 + width + 7, top + 17, words, "tick start"),
        ]
    costly = ", ".join(f"{name} {error['cost']:.3f} ({error['count']:,})" for name, error in errors.items())
    return chart(
        f"gIoU lost to each class of error, and number of questions: {costly}.", marks, len(errors) * BAR_HEIGHT + 6
    )


def score_bins(scores: np.ndarray, ious: np.ndarray) -> list[Bin]:
    """Return the real IoU for each range of the predicted score.

    Args:
        scores: (M,) predicted IoU of each mask.
        ious: (M,) real IoU of each mask.
    """
    return binned(scores, ious, np.linspace(0, 1, SCORE_BINS + 1))


def reliability_diagram(bins: list[Bin]) -> Markup:
    """Return the real IoU against the predicted score. The area of a dot grows with its number of masks.

    Args:
        bins: from `score_bins`, at least one with masks.
    """
    x, y = unit_axis("predicted IoU score"), unit_axis("real IoU, mean")
    most = max(part.count for part in bins)
    marks = [
        line(x_of(x, 0), y_of(y, 0), x_of(x, 1), y_of(y, 1), "ideal"),
        text(LEFT + 10, 28, "above the line: too cautious", "note start"),
        text(WIDTH - RIGHT - 6, HEIGHT - BOTTOM - 10, "below the line: too confident", "note end"),
    ]
    filled = [part for part in bins if part.count]
    marks.append(curve([(x_of(x, part.value), y_of(y, part.mean)) for part in filled], "trend"))
    for part in filled:
        tip = f"score {part.value:.2f}, real IoU {part.mean:.2f}, {count_of(part.count, 'mask')}"
        marks.append(dot(x_of(x, part.value), y_of(y, part.mean), 3 + 7 * (part.count / most) ** 0.5, "mark", tip))
    error = calibration_error(bins)
    return chart(
        f"Real IoU against predicted score; expected calibration error {error:.3f}. The diagonal is perfect.",
        [*axes(x, y), *marks],
    )


def interval(value: float | None, low: float | None, high: float | None, reach: float = 0.0) -> Markup:
    """Return a small picture of a value and its 95% CI on an axis from 0 to 1, or from -reach to reach.

    Args:
        value, low, high: the value and the ends of its interval; None: unknown.
        reach: above 0 for values that can be negative, such as differences.
    """
    if value is None:
        return Markup("")
    axis = Axis(-reach, reach, [], "") if reach else unit_axis("")
    width, middle = 120, 9
    first, last = 4, width - 4

    def at(place: float) -> float:
        return first + axis.share(place) * (last - first)

    parts = [line(first, middle, last, middle, "grid"), line(at(0), 2, at(0), 16, "axis")]
    if not reach:
        parts.append(line(last, 2, last, 16, "axis"))
    if low is not None and high is not None:
        parts.append(line(at(low), middle, at(high), middle, "range"))
    parts.append(dot(at(value), middle, 4, "mark"))
    return Markup('<svg class="interval" viewBox="0 0 {w} 18" aria-hidden="true">{parts}</svg>').format(
        w=width, parts=Markup("").join(parts)
    )
