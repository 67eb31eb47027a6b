"""The scores of an evaluation with their bootstrap intervals, and those that training logs.

Every score is a function of sums over questions. So its 95% interval is the same function of the sums over resampled
rows. docs/evaluation.md lists the formulas and their sources.
"""

from collections.abc import Iterable

import numpy as np

from . import lisa_style
from .columns import EXACT, LISA, MOST_TARGETS, PRECISIONS, columns_of
from .phrases import given_phrases
from .records import Judged

GENERATE, TEACHER_FORCED = PROTOCOLS = ("generate", "teacher_forced")
RESAMPLES_AT_ONCE = 100  # limits the memory of `intervals`

NUM_COUNTS = 5  # intersection, union, num_targets, num_predictions, complete
# One line for people about each score, in the order in which they are printed
MEANINGS = {
    "gIoU": "mean IoU over questions with a target",
    "gIoU_all": "mean IoU over all questions, also those without a target",
    "gIoU_plural": "mean IoU over questions with two or more target masks",
    "cIoU": "all intersections / all unions, in pixels",
    "N-acc": "share of questions without a target that were refused",
    "T-acc": "share of questions with a target that got a mask",
    "gIoU_1": "mean IoU over questions with one target mask",
    "gIoU_2": "mean IoU over questions with two target masks",
    "gIoU_3": "mean IoU over questions with three target masks",
    "gIoU_4+": "mean IoU over questions with four or more target masks",
    "P@0.5": "share of questions with a target with an IoU of at least 0.5",
    "P@0.7": "share of questions with a target with an IoU of at least 0.7",
    "P@0.9": "share of questions with a target with an IoU of at least 0.9",
    "boundary_IoU": "mean IoU of the boundaries over questions with a target",
    "instance_IoU": "mean IoU of masks matched one to one, over plural questions",
    "instance_IoU_ordered": "the same with masks and targets paired in their order",
    "instance_F1": "F1 of matched masks at IoU 0.5 to 0.95, over plural questions",
    "pmF1": "F1 of matched masks at IoU 0.5 to 0.95, over questions with a target",
    "presence_MCC": "correlation of 'is in the image' and 'has a mask'; 0: chance",
    "cgF1": "pmF1 x presence_MCC",
    "phrase_acc": "share of judged phrases that are true of their mask",
    "answers_right": "share of questions without masks that were answered correctly",
    "likelihood": "mean log-likelihood per token of their right answers",
    "cut_off_share": "share of answers that reached the token limit",
    "tokens": "mean number of tokens of an answer",
    "seconds_per_question": "mean time for an answer",
    "count": "questions that ask for masks",
    "count_target": "of these, with a target in the image",
    "count_no_target": "of these, without a target in the image",
    "count_plural": "of these, with two or more target masks",
    "cut_off": "answers without a mask that reached the token limit",
    "phrases_judged": "phrases beside masks that were judged",
    "phrases_not_judged": "phrases beside masks that could not be judged",
    "answers_count": "questions without masks",
}
# Scores of a model's own words, which teacher forcing replaces. In gIoU_all, the given answer to a question without a
# target has no mask, whatever the model predicts.
_OWN_ANSWER = ("gIoU_all", "phrase_acc", "answers_right", "cut_off_share", "tokens")


# ---------------------------------------------------------------------------------------------------------------------
# Scores of judged predictions
# ---------------------------------------------------------------------------------------------------------------------
def summarize(judged: Iterable[Judged], protocol: str = GENERATE, style: str = EXACT) -> dict[str, float | int | None]:
    """Return the scores of MEANINGS. A score over no questions is None.

    Args:
        judged: predictions, compared with the right answers.
        protocol: with `teacher_forced`, the scores of a model's own answer are None.
        style: with `lisa`, gIoU and cIoU are computed as in LISA's code (`lisa_style`).
    """
    judged = list(judged)
    columns = columns_of(judged, style)
    totals = {name: column.sum(axis=0, keepdims=True) for name, column in columns.items()}
    scores = {name: _number(values[0]) for name, values in scores_of(totals, protocol, style).items()}
    asked = [one for one in judged if one.question.targets is not None]
    num_targets = [len(one.question.targets) for one in asked]
    given = sum(phrase != "" for one in asked for phrase in given_phrases(one.prediction))
    phrases_judged = int(totals["phrases_judged"][0])
    return scores | {
        "count": len(asked),
        "count_target": sum(count > 0 for count in num_targets),
        "count_no_target": sum(count == 0 for count in num_targets),
        "count_plural": sum(count > 1 for count in num_targets),
        "cut_off": sum(not one.prediction.complete and not one.prediction.masks for one in asked),
        "phrases_judged": phrases_judged,
        "phrases_not_judged": given - phrases_judged,
        "answers_count": len(judged) - len(asked),
    }


def intervals(
    judged: Iterable[Judged],
    protocol: str = GENERATE,
    style: str = EXACT,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, list[float] | None]:
    """Return the bootstrap 95% CI [low, high] of each score of `summarize`, or None for a score over no questions.

    Rows (`source`) are resampled, not questions, because the results of questions about one image are correlated.
    Resamples in which a score is not defined are skipped for this score.

    Args:
        judged, protocol, style: as in `summarize`.
        resamples: number of bootstrap samples.
        seed: seed of the resampling.
    """
    judged = list(judged)
    if not judged:
        return {}
    _, row_of = np.unique([one.question.source for one in judged], return_inverse=True)  # (N,)
    drawn = resampled_totals(columns_of(judged, style), row_of, resamples, seed)
    return {name: _interval(values) for name, values in scores_of(drawn, protocol, style).items()}


def resampled_totals(
    columns: dict[str, np.ndarray], row_of: np.ndarray, resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Return the sums (resamples, ...) of columns (N, ...) over as many rows as there are, drawn with replacement.

    Args:
        columns: numbers of each question.
        row_of: (N,) index of the row of each question.
        resamples, seed: as in `intervals`.
    """
    num_rows = int(row_of.max()) + 1
    shapes = {name: column.shape[1:] for name, column in columns.items()}
    flat = np.concatenate([column.reshape(len(row_of), -1) for column in columns.values()], axis=1).astype(np.float64)
    of_rows = np.zeros((num_rows, flat.shape[1]))
    np.add.at(of_rows, row_of, flat)
    generator, parts = np.random.default_rng(seed), []
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        size = min(RESAMPLES_AT_ONCE, resamples - start)
        times = generator.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=size)
        parts.append(times.astype(np.float64) @ of_rows)
    totals = np.concatenate(parts)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    split = np.split(totals, ends[:-1], axis=1)
    return {name: part.reshape(resamples, *shapes[name]) for name, part in zip(shapes, split, strict=True)}


def scores_of(totals: dict[str, np.ndarray], protocol: str, style: str) -> dict[str, np.ndarray]:
    """Return each score (R,) of R sums of the columns of `columns_of`; NaN where it is not defined.

    Args:
        totals: sums of columns, (R,) or (R, 10).
        protocol, style: as in `summarize`.
    """
    scores = {name: _ratio(totals[of], totals[over]) for name, (of, over) in _RATIOS.items()}
    if style == LISA:
        scores["gIoU"] = lisa_style.giou(totals["lisa_iou"], totals["lisa_masks"])
        scores["cIoU"] = lisa_style.ciou(totals["lisa_intersection"], totals["lisa_union"])
        for name in ("gIoU", "cIoU"):
            scores[name][totals["lisa_masks"] == 0] = np.nan
    scores["instance_F1"] = _f1(totals["found_plural"], totals["masks_and_targets_plural"])
    scores["pmF1"] = _f1(totals["found"], totals["masks_and_targets"])
    scores["presence_MCC"] = _presence_mcc(totals)
    scores["cgF1"] = scores["pmF1"] * scores["presence_MCC"]
    if protocol == TEACHER_FORCED:
        scores |= {name: np.full_like(scores[name], np.nan) for name in _OWN_ANSWER}
    return {name: scores[name] for name in MEANINGS if name in scores}


_RATIOS = {  # score: (column of the numerator, column of the denominator)
    "gIoU": ("iou_target", "target"),
    "gIoU_all": ("iou", "asked"),
    "gIoU_plural": ("iou_plural", "plural"),
    "cIoU": ("intersection", "union"),
    "N-acc": ("refused", "no_target"),
    "T-acc": ("answered", "target"),
    **{f"gIoU_{count}": (f"iou_{count}", f"target_{count}") for count in range(1, MOST_TARGETS)},
    f"gIoU_{MOST_TARGETS}+": (f"iou_{MOST_TARGETS}", f"target_{MOST_TARGETS}"),
    **{f"P@{least}": (f"precise_{least}", "target") for least in PRECISIONS},
    "boundary_IoU": ("boundary_iou", "target"),
    "instance_IoU": ("matched", "plural"),
    "instance_IoU_ordered": ("ordered", "plural"),
    "phrase_acc": ("phrases_right", "phrases_judged"),
    "answers_right": ("texts_right", "texts"),
    "likelihood": ("likelihood", "likelihood_known"),
    "cut_off_share": ("cut_off", "all"),
    "tokens": ("tokens", "tokens_known"),
    "seconds_per_question": ("seconds", "seconds_known"),
}


def _ratio(of: np.ndarray, over: np.ndarray) -> np.ndarray:
    return np.divide(of, over, out=np.full(np.shape(of), np.nan), where=over > 0)


def _f1(found: np.ndarray, masks_and_targets: np.ndarray) -> np.ndarray:
    """Return F1 = 2 TP / (2 TP + FP + FN) averaged over the IoU thresholds, (R,). 2 TP + FP + FN = masks + targets.

    Args:
        found: (R, 10) true positives at each threshold.
        masks_and_targets: (R,) number of predicted masks and targets.
    """
    return _ratio(2 * found.mean(axis=1), masks_and_targets)


def _presence_mcc(totals: dict[str, np.ndarray]) -> np.ndarray:
    """Return Matthews' correlation coefficient of two facts, (R,): there is a target, and the answer has a mask.

    NaN without questions of both kinds. 0 if all answers are the same, because they carry no information.
    """
    positive, negative = totals["target"], totals["no_target"]
    hits, rejections = totals["answered"], totals["refused"]
    false_alarms, misses = negative - rejections, positive - hits
    margins = (hits + false_alarms) * positive * negative * (rejections + misses)
    found = np.divide(
        hits * rejections - false_alarms * misses, np.sqrt(margins), out=np.zeros_like(hits), where=margins > 0
    )
    return np.where((positive > 0) & (negative > 0), found, np.nan)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _interval(values: np.ndarray) -> list[float] | None:
    values = values[~np.isnan(values)]
    return np.percentile(values, [2.5, 97.5]).tolist() if len(values) else None


# ---------------------------------------------------------------------------------------------------------------------
# Scores of counts, which training gathers from all processes
# ---------------------------------------------------------------------------------------------------------------------
def summarize_counts(counts: np.ndarray) -> dict[str, float | int | None]:
    """Return the scores of N queries. A score over no queries is None.

    - `gIoU`: mean IoU over queries with a target. Every query has the same weight, so small targets count as much as
      large ones.
    - `gIoU_all`: mean IoU over all queries, also those without a target. Empty prediction and empty target count as 1.
      LISA prints this number. An empty answer that was cut off counts as empty: only masks are compared.
    - `gIoU_plural`: mean IoU over queries with at least two target masks. It shows if only one of them is found.
    - `cIoU`: Σ intersections / Σ unions over all queries, as in papers. Large targets dominate. None if all unions
      are 0.
    - `N-acc`: share of no-target queries that were refused: the turn ended without a `[SEG]`.
    - `T-acc`: share of target queries with at least one mask in the answer. A model that always refuses has N-acc 1 and
      T-acc 0.
    - `cut_off`: number of answers that reached the token limit without a `[SEG]`.
    - `count`, `count_target`, `count_no_target`, `count_plural`: numbers of queries behind these scores.

    LISA computes IoU = intersection / (union + 1e-5), 1 where the union is 0, and divides the sum over masks by their
    number + 1e-5. Its cIoU is Σ intersections / (Σ unions + 1e-10). Here the divisions are exact and the mean is over
    queries. If every query has one mask, the results differ by these epsilons only.

    Args:
        counts: (N, 5) int64. The columns are intersection and union in pixels, number of targets, number of predicted
            masks (0 for a refusal), and whether the answer is complete.
    """
    if counts.ndim != 2 or counts.shape[1] != NUM_COUNTS:
        raise ValueError(f"counts must have shape (N, {NUM_COUNTS}), got {counts.shape}.")
    num_targets, num_predictions, complete = counts.T[2:]
    scores = {name: _quotient(of[over > 0].sum(), over.sum()) for name, (of, over) in _count_ratios(counts).items()}
    return scores | {
        "count": len(counts),
        "count_target": int((num_targets > 0).sum()),
        "count_no_target": int((num_targets == 0).sum()),
        "count_plural": int((num_targets > 1).sum()),
        "cut_off": int(((num_predictions == 0) & (complete == 0)).sum()),
    }


def _count_ratios(counts: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return numerator (N,) and denominator (N,) of each score, one entry per query.

    Args:
        counts: as in `summarize_counts`.
    """
    intersections, unions, num_targets, num_predictions, complete = counts.T
    has_target, plural = num_targets > 0, num_targets > 1
    answered, ended = num_predictions > 0, complete > 0
    ious = np.where(unions > 0, intersections / np.maximum(unions, 1), 1.0)
    return {
        "gIoU": (ious * has_target, has_target),
        "gIoU_all": (ious, np.ones(len(counts))),
        "gIoU_plural": (ious * plural, plural),
        "cIoU": (intersections, unions),
        "N-acc": (~has_target & ~answered & ended, ~has_target),
        "T-acc": (has_target & answered, has_target),
    }


def _quotient(total: float, count: int) -> float | None:
    return float(total / count) if count else None
