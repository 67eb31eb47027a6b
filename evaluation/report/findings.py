"""Sentences about what stands out in the answers of a system, for readers who do not know the metrics."""

from typing import Any

import numpy as np

from gemma_lisa.safety.short_text import count_of

from ..error_classes import MEANINGS, RIGHT
from .facts import Facts, chance

WHOLE = 0.99  # share of the image from which on a mask covers all of it
STANDARD_ERRORS = 2  # a gain over chance below this many standard errors is none
OVERCONFIDENT = 0.05  # difference of predicted score and real IoU that is worth a sentence


def find(facts: Facts, errors: dict[str, dict[str, Any]], scores: np.ndarray, ious: np.ndarray) -> list[str]:
    """Return the sentences, the most important first.

    Args:
        facts: the questions with masks.
        errors: class of error: {"count", "share", "cost"}.
        scores, ious: (M,) predicted score and real IoU of each mask.
    """
    if not len(facts):
        return []
    if _is_perfect(facts):
        words = "Every prediction equals its target, and every absent target is refused, as the ground truth would."
        return [words, *_confidence(scores, ious)]
    found = _extreme(facts)
    if not facts.has_target.any() or not facts.prediction_shares[facts.has_target].any():
        return found
    found.append(_fit(facts.ious[facts.has_target]))
    if (text := _chance(facts)) is not None:
        found.append(text)
    return [*found, *_presence(facts), *_costly(errors), *_confidence(scores, ious)]


def _extreme(facts: Facts) -> list[str]:
    """Return sentences about a system that treats all questions alike."""
    absent, found = ~facts.has_target, []
    if not facts.answered.any():
        words = "It refuses every question" if facts.refused.all() else "No answer has a mask"
        found.append(f"{words}. Targets that are in the image are never found{_free(absent, 'N-acc', facts.refused)}.")
    elif facts.answered.all() and absent.any():
        found.append(
            f"Every question gets a mask, also the {absent.sum():,} whose target is not in the image: it never refuses."
        )
    with_mask = facts.prediction_shares[facts.answered]
    if len(with_mask) and not with_mask.any():
        found.append("All predicted masks are empty: they have no pixel.")
    elif len(with_mask) and (share := float((with_mask >= WHOLE).mean())) > 0.5:
        words = "Every predicted mask covers" if share == 1 else f"{share:.0%} of the predicted masks cover"
        mean = float(facts.target_shares[facts.has_target].mean()) if facts.has_target.any() else 0.0
        found.append(
            f"{words} the whole image. The IoU of such a mask is the share of the image that the target fills, "
            f"{mean:.3f} on average."
        )
    return found


def _free(absent: np.ndarray, name: str, refused: np.ndarray) -> str:
    if not absent.any() or not refused[absent].all():
        return ""
    return f", and {name} is 1 without looking at an image"


def _is_perfect(facts: Facts) -> bool:
    return bool((facts.ious == 1).all() and (facts.refused == ~facts.has_target).all())


def _fit(ious: np.ndarray) -> str:
    """Return a sentence about the IoU (N,) of the questions with a target."""
    good = float((ious >= 0.5).mean())
    return f"{good:.0%} of the targets are found with an IoU of at least 0.5; the mean IoU (gIoU) is {ious.mean():.3f}."


def _chance(facts: Facts) -> str | None:
    """Return a sentence about masks that fit other questions as well as their own."""
    if (compared := chance(facts)) is None:
        return None
    own, others, error = compared
    if own - others < STANDARD_ERRORS * error or own <= others:
        return (
            f"The masks do not depend on the question: they fit the targets of other questions as well as their own "
            f"(mean IoU {others:.3f} and {own:.3f})."
        )
    return None


def _presence(facts: Facts) -> list[str]:
    """Return a sentence about questions that are wrongly refused, or wrongly answered with a mask."""
    if facts.answered.all() or not facts.answered.any():
        return []  # `_extreme` says it
    found = []
    for verb, wrong, such, place in (
        ("refuses", facts.refused, facts.has_target, "is in the image"),
        ("gives a mask for", facts.answered, ~facts.has_target, "is not in the image"),
    ):
        if (wrong & such).any():
            total = count_of(int(such.sum()), "question")
            found.append(f"It {verb} {(wrong & such).sum():,} of {total} whose target {place}.")
    return found


def _costly(errors: dict[str, dict[str, Any]]) -> list[str]:
    """Return a sentence about the class of error that costs the most."""
    costs = {name: error["cost"] for name, error in errors.items() if error["cost"] and name != RIGHT}
    if not costs:
        return []
    worst = max(costs, key=costs.get)
    total = sum(error["cost"] for error in errors.values())
    return [
        f"The mean IoU over all questions is {1 - total:.3f}. The most is lost to errors of the class {worst} "
        f"({MEANINGS[worst]}): {costs[worst]:.3f}."
    ]


def _confidence(scores: np.ndarray, ious: np.ndarray) -> list[str]:
    """Return a sentence about predicted scores that are too high or too low on average."""
    if not len(scores) or abs(gap := float(scores.mean() - ious.mean())) < OVERCONFIDENT:
        return []
    return [
        f"Its own scores are too {'high' if gap > 0 else 'low'}: {scores.mean():.2f} on average, but the real IoU of "
        f"its masks is {ious.mean():.2f}."
    ]
