"""Compare two results of the same questions: paired differences, changed questions and changed errors.

A is the first result, B the second one. A difference is B - A.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gemma_lisa.safety.short_text import count_of, name_of, show

from .columns import EXACT, columns_of
from .error_classes import CLASSES, RIGHT
from .judging import refuses, says_present
from .metrics import GENERATE, resampled_totals, scores_of
from .records import Judged
from .results_file import read_results

SAME = 0.01  # a smaller change of the IoU is none
FOUND = 0.5  # a target with at least this IoU is found
RESAMPLES = 2000
# Change of a question -> its meaning; a question can have several changes
CHANGES = {
    "better": f"the IoU is higher by at least {SAME}",
    "worse": f"the IoU is lower by at least {SAME}",
    "found": f"the IoU of a target has risen to {FOUND} or more",
    "lost": f"the IoU of a target has fallen below {FOUND}",
    "now answered": "refused by A, a mask by B",
    "now refused": "a mask by A, refused by B",
    "now right": "answer in words: wrong by A, right by B",
    "now wrong": "answer in words: right by A, wrong by B",
}


@dataclass(frozen=True)
class Comparison:
    """Two results of the same questions in the same order.

    Args:
        a, b: contents of the results files.
        judged_a, judged_b: their questions.
        differences: of each score, see `paired_differences`.
        by_kind: kind: differences of its questions.
        changes: one set of names of CHANGES for each question.
        transitions: (class of A, class of B): number of questions. RIGHT is no error.
    """

    a: dict[str, Any]
    b: dict[str, Any]
    judged_a: list[Judged]
    judged_b: list[Judged]
    differences: dict[str, dict[str, float]]
    by_kind: dict[str, dict[str, dict[str, float]]]
    changes: list[set[str]]
    transitions: dict[tuple[str, str], int]

    @property
    def change_counts(self) -> dict[str, int]:
        """The number of questions with each change of CHANGES."""
        found = Counter(name for names in self.changes for name in names)
        return {name: found[name] for name in CHANGES}


def compare_files(a: Path, b: Path) -> Comparison:
    """Return the comparison of two results files, whose questions files must be beside them.

    Raises:
        ValueError: a file cannot be read, or they do not have the same questions, protocol and metric style. The
            message names the first difference.
    """
    content_a, judged_a = read_results(a)
    content_b, judged_b = read_results(b)
    check_same_questions((content_a, judged_a, a), (content_b, judged_b, b))
    return compare(content_a, judged_a, content_b, judged_b)


def compare(
    content_a: dict[str, Any], judged_a: list[Judged], content_b: dict[str, Any], judged_b: list[Judged]
) -> Comparison:
    """Return the comparison of two results of the same questions in the same order."""
    protocol, style = content_a.get("protocol") or GENERATE, content_a.get("style") or EXACT
    kinds = Counter(one.question.kind for one in judged_a if one.question.kind)
    by_kind = {}
    for kind, _ in kinds.most_common():
        at = [index for index, one in enumerate(judged_a) if one.question.kind == kind]
        by_kind[kind] = paired_differences([judged_a[i] for i in at], [judged_b[i] for i in at], protocol, style)
    asked = [pair for pair in zip(judged_a, judged_b, strict=True) if pair[0].question.targets is not None]
    return Comparison(
        a=content_a,
        b=content_b,
        judged_a=judged_a,
        judged_b=judged_b,
        differences=paired_differences(judged_a, judged_b, protocol, style),
        by_kind=by_kind,
        changes=[changes_of(one, other) for one, other in zip(judged_a, judged_b, strict=True)],
        transitions=dict(Counter((one.error or RIGHT, other.error or RIGHT) for one, other in asked)),
    )


def paired_differences(
    judged_a: Sequence[Judged], judged_b: Sequence[Judged], protocol: str = GENERATE, style: str = EXACT, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Return for each score {"a", "b", "difference", "low", "high"}; low and high are the 95% CI of the difference.

    Rows are resampled as in `metrics.intervals`. They are the same ones for A and B, so rows that are difficult for
    both do not widen the interval. Scores that are unknown in A or B are not in the result. Resamples without a value
    are skipped.

    Args:
        judged_a, judged_b: the same questions in the same order.
        protocol, style: as in `metrics.summarize`.
        seed: of the resampling.

    Raises:
        ValueError: the questions differ. The message names the first one.
    """
    _check_ids(judged_a, judged_b, "A", "B")
    if not judged_a:
        return {}
    _, row_of = np.unique([one.question.source for one in judged_a], return_inverse=True)
    values, drawn = [], []
    for judged in (judged_a, judged_b):
        columns = columns_of(list(judged), style)
        totals = {name: column.sum(axis=0, keepdims=True) for name, column in columns.items()}
        values.append(scores_of(totals, protocol, style))
        drawn.append(scores_of(resampled_totals(columns, row_of, RESAMPLES, seed), protocol, style))
    found = {}
    for name in values[0]:
        a, b = float(values[0][name][0]), float(values[1][name][0])
        spread = drawn[1][name] - drawn[0][name]
        spread = spread[~np.isnan(spread)]
        if not np.isnan(b - a) and len(spread):
            low, high = np.percentile(spread, [2.5, 97.5]).tolist()
            found[name] = {"a": a, "b": b, "difference": b - a, "low": low, "high": high}
    return found


def changes_of(a: Judged, b: Judged) -> set[str]:
    """Return the names of CHANGES that are true of a question."""
    if a.question.targets is None:
        return set() if a.is_right == b.is_right else {"now right" if b.is_right else "now wrong"}
    found = set()
    if abs(b.iou - a.iou) >= SAME:
        found.add("better" if b.iou > a.iou else "worse")
    if a.question.targets and (a.iou >= FOUND) != (b.iou >= FOUND):
        found.add("found" if b.iou >= FOUND else "lost")
    if refuses(a.prediction) and says_present(b.prediction):
        found.add("now answered")
    if says_present(a.prediction) and refuses(b.prediction):
        found.add("now refused")
    return found


def largest_changes(comparison: Comparison) -> tuple[list[int], list[int]]:
    """Return the indices of the questions that are better, and of those that are worse, the largest change first.

    Equal changes are in random order, the same every time.
    """
    gains = [b.iou - a.iou for a, b in zip(comparison.judged_a, comparison.judged_b, strict=True)]
    order = sorted(np.random.default_rng(0).permutation(len(gains)).tolist(), key=lambda at: -abs(gains[at]))
    changed = comparison.changes
    return [at for at in order if "better" in changed[at]], [at for at in order if "worse" in changed[at]]


def transition_rows(comparison: Comparison) -> list[tuple[str, list[int]]]:
    """Return (class of A, number of questions for each class of B) in the order of RIGHT and CLASSES."""
    names = (RIGHT, *CLASSES)
    return [(one, [comparison.transitions.get((one, other), 0) for other in names]) for one in names]


def check_same_questions(
    first: tuple[dict[str, Any], Sequence[Judged], Path], second: tuple[dict[str, Any], Sequence[Judged], Path]
) -> None:
    """Refuse results that do not answer the same questions in the same way.

    Args:
        first, second: content, questions and path of each results file.

    Raises:
        ValueError: what differs, on one line.
    """
    (a, judged_a, path_a), (b, judged_b, path_b) = first, second
    for key, name in (("protocol", "protocols"), ("style", "metric styles")):
        if a.get(key) != b.get(key):
            raise ValueError(
                f"{path_a} and {path_b} have different {name}, {show(a.get(key))} and {show(b.get(key))}, so their "
                "scores cannot be compared; evaluate both with the same one."
            )
    _check_ids(judged_a, judged_b, str(path_a), str(path_b))
    prints = (a.get("fingerprint"), b.get("fingerprint"))
    if None not in prints and prints[0] != prints[1]:
        raise ValueError(
            f"{path_a} and {path_b} have different fingerprints, {prints[0][:12]} and {prints[1][:12]}: a question, a "
            f"mask or an image of {name_of(str(a.get('dataset')))} has changed; evaluate both on the same files."
        )
    for one, other in zip(judged_a, judged_b, strict=True):
        if (one.question.text, one.question.targets) != (other.question.text, other.question.targets):
            raise ValueError(
                f"{path_a} and {path_b} ask {one.question.id} with different texts or targets; evaluate both on the "
                "same files."
            )


def _check_ids(judged_a: Sequence[Judged], judged_b: Sequence[Judged], name_a: str, name_b: str) -> None:
    ids_a, ids_b = ([one.question.id for one in judged] for judged in (judged_a, judged_b))
    if ids_a == ids_b:
        return
    for ids, others, name, other in ((ids_a, set(ids_b), name_a, name_b), (ids_b, set(ids_a), name_b, name_a)):
        if missing := [one for one in ids if one not in others]:
            raise ValueError(
                f"{other} has no answer to {count_of(len(missing), 'question')} of {name}, such as "
                f"{name_of(missing[0])}; evaluate both on the same questions."
            )
    at = next(at for at, (one, other) in enumerate(zip(ids_a, ids_b, strict=False)) if one != other)
    raise ValueError(
        f"{name_a} and {name_b} have the same questions in another order, first at {name_of(ids_a[at])}; evaluate both "
        "with the same release."
    )
