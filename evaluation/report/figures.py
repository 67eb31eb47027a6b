"""Charts with their headings, explanations and numbers, as the report shows them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from ..error_classes import MEANINGS
from . import charts
from .facts import Facts


@dataclass(frozen=True)
class Figure:
    """A chart for people.

    Args:
        heading, explanation: above the chart.
        chart: SVG.
        columns: headings of the table with its numbers.
        rows: cells of this table.
    """

    heading: str
    explanation: str
    chart: Markup
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def figures_of(
    facts: Facts, errors: dict[str, dict[str, Any]], predicted: np.ndarray, real: np.ndarray
) -> list[Figure]:
    """Return the figures that have data.

    Args:
        facts: of the questions with masks.
        errors: from `error_classes.summarize_errors`; {} without questions.
        predicted, real: from `facts.mask_scores`.
    """
    ious, shares = facts.ious[facts.has_target], facts.target_shares[facts.has_target]
    found = [_fit(ious), _sizes(shares, ious)] if len(ious) else []
    if errors:
        found.append(_errors(errors))
    if len(predicted):
        found.append(_calibration(predicted, real))
    return found


def _fit(ious: np.ndarray) -> Figure:
    bins = [part for part in charts.histogram_bins(ious) if part.count]
    return Figure(
        "How well the masks fit",
        "Number of questions by the IoU of prediction and target. Only questions with a target.",
        charts.iou_histogram(ious),
        ("IoU", "questions"),
        [(f"{part.low:.2f} to {part.high:.2f}", f"{part.count:,}") for part in bins],
    )


def _sizes(shares: np.ndarray, ious: np.ndarray) -> Figure:
    dots = "single questions" if len(ious) <= charts.DOTS else f"{charts.DOTS} of {len(ious):,} questions, at random"
    bins = zip(charts.size_names(), charts.size_bins(shares, ious), strict=True)
    return Figure(
        "Small and large targets",
        f"Mean IoU by the size of the target. The broad bar holds the middle half of the questions. Dots: {dots}.",
        charts.size_chart(shares, ious),
        ("area of the target", "mean IoU", "questions"),
        [(f"{name}% of the image", f"{part.mean:.3f}", f"{part.count:,}") for name, part in bins if part.count],
    )


def _errors(errors: dict[str, dict[str, Any]]) -> Figure:
    return Figure(
        "What the errors cost",
        "A bar is what a class of questions costs of the mean IoU over all questions (gIoU_all). The last bar is lost "
        "by small inaccuracies of right answers.",
        charts.error_chart(errors),
        ("class", "questions", "share", "cost"),
        [
            (f"{name}: {MEANINGS[name]}", f"{of['count']:,}", f"{of['share']:.1%}", f"{of['cost']:.3f}")
            for name, of in errors.items()
        ],
    )


def _calibration(predicted: np.ndarray, real: np.ndarray) -> Figure:
    bins = charts.score_bins(predicted, real)
    return Figure(
        f"Can its own scores be trusted? Calibration error {charts.calibration_error(bins):.3f}",
        f"Real IoU of {len(predicted):,} masks by the IoU that the system predicts. On the diagonal, both are equal. "
        "The calibration error is their mean distance (ECE).",
        charts.reliability_diagram(bins),
        ("predicted score", "real IoU", "masks"),
        [(f"{part.value:.3f}", f"{part.mean:.3f}", f"{part.count:,}") for part in bins if part.count],
    )
