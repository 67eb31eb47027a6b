"""What the report shows of a group of questions: scores, findings and charts of a data set or of one of its kinds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ..columns import EXACT
from ..error_classes import summarize_errors
from ..metrics import GENERATE, MEANINGS, intervals, summarize
from ..records import Judged
from . import charts
from .facts import Facts, facts_of, mask_scores
from .figures import figures_of
from .findings import find

# Scores above the fold; the others are in a list that opens
MAIN = ("gIoU", "cIoU", "gIoU_plural", "N-acc", "T-acc", "P@0.5", "boundary_IoU", "instance_IoU", "cgF1")
MAIN += ("phrase_acc", "answers_right")
AMOUNTS = ("likelihood", "tokens", "seconds_per_question")  # not between 0 and 1
SIGNED = ("presence_MCC", "cgF1")  # between -1 and 1
MAX_KINDS = 12  # kinds with their own scores and charts; the most frequent ones


@dataclass(frozen=True)
class ScoreRow:
    """A row of the table of scores.

    Args:
        name, meaning: of the score.
        value: formatted; "–" if it is unknown.
        exact: formatted value of the exact arithmetic if `value` follows another one, else "".
        interval: formatted 95% CI, or "".
        picture: the interval as SVG, or "".
    """

    name: str
    meaning: str
    value: str
    exact: str
    interval: str
    picture: Markup


def score_rows(
    scores: dict[str, Any], bounds: dict[str, list[float] | None], exact: dict[str, Any] | None = None
) -> list[ScoreRow]:
    """Return a row for each score that is not a whole number; those are in `count_rows`.

    Args:
        scores, bounds: values and 95% CI of the results file.
        exact: the same scores in the exact arithmetic, if `scores` follow another one.
    """
    rows = []
    for name, value in scores.items():
        if isinstance(value, int):
            continue
        low, high = bounds.get(name) or (None, None)
        rows.append(
            ScoreRow(
                name,
                MEANINGS.get(name, ""),
                format_score(name, value),
                format_score(name, exact.get(name)) if exact else "",
                f"{format_score(name, low)} to {format_score(name, high)}"
                if low is not None and value is not None
                else "",
                charts.interval(value, low, high, reach=1.0 if name in SIGNED else 0.0)
                if name not in AMOUNTS
                else Markup(""),
            )
        )
    return rows


def format_score(name: str, value: float | None) -> str:
    """Return the value of a score as text; "–" if it is unknown."""
    return "–" if value is None else f"{value:.1f}" if name == "tokens" else f"{value:.3f}"


def count_rows(scores: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (number, meaning) of each score that is a whole number."""
    return [(f"{value:,}", MEANINGS.get(name, name)) for name, value in scores.items() if isinstance(value, int)]


def pane_of(kind: str, content: dict[str, Any], judged: Sequence[Judged]) -> dict[str, Any]:
    """Return what the template shows of the questions of a kind; "" is all kinds.

    Args:
        kind: kind of the questions.
        content: of the results file. Its scores and intervals are shown for all kinds.
        judged: the questions of this kind.
    """
    protocol, style = content.get("protocol") or GENERATE, content.get("style") or EXACT
    if kind:
        scores = content.get("by_kind", {}).get(kind) or summarize(judged, protocol, style)
        bounds = intervals(judged, protocol, style)
    else:
        scores, bounds = content["scores"], content["intervals"]
    rows = score_rows(scores, bounds, None if kind else content.get("exact_scores"))
    known = [row for row in rows if scores[row.name] is not None]
    facts = facts_of(judged)
    predicted, real = mask_scores(facts)
    errors = summarize_errors(judged) if len(facts) else {}
    return {
        "kind": kind,
        "num_questions": len(judged),
        "num_rows": len({one.question.source for one in judged}),
        "findings": find(facts, errors, predicted, real),
        "main_scores": [row for row in known if row.name in MAIN],
        "other_scores": [row for row in known if row.name not in MAIN],
        "unknown_scores": [row.name for row in rows if scores[row.name] is None],
        "has_exact": any(row.exact for row in rows),
        "counts": count_rows(scores),
        "presence": presence_table(facts),
        "errors": errors,
        "figures": figures_of(facts, errors, predicted, real),
    }


def presence_table(facts: Facts) -> dict[str, tuple[int, int, int]] | None:
    """Return how many questions got a mask, were refused, or neither, by the presence of their target."""
    if not len(facts):
        return None
    neither = ~facts.answered & ~facts.refused
    return {
        name: tuple(int((of & such).sum()) for of in (facts.answered & ~facts.refused, facts.refused, neither))
        for name, such in (("present", facts.has_target), ("absent", ~facts.has_target))
    }
