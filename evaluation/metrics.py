"""Scores of reasoning segmentation, computed as sums over queries with one division at the end.

A query is one question about one image. Its prediction is the union of all masks in the answer. Its target is the union
of all masks in the right answer. N = number of queries, K = number of masks of a query.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gemma_lisa.images_gemma_lisa import IGNORE_VALUE

NUM_COUNTS = 5  # intersection, union, num_targets, num_predictions, complete
# One line for people about each score; `summarize_counts` defines them exactly
MEANINGS = {
    "gIoU": "mean IoU over questions with a target",
    "gIoU_all": "mean IoU over all questions, as LISA prints it",
    "gIoU_plural": "mean IoU over questions with two or more target masks",
    "cIoU": "all intersections / all unions, in pixels",
    "N-acc": "share of questions without a target that were refused",
    "T-acc": "share of questions with a target that got a mask",
    "count": "questions that ask for masks",
    "count_target": "of these, with a target in the image",
    "count_no_target": "of these, without a target in the image",
    "count_plural": "of these, with two or more target masks",
    "cut_off": "answers without a mask that reached the token limit",
}


@dataclass(frozen=True)
class QueryResult:
    """Counts of one query, from which the scores are computed.

    Args:
        source: row of the data set, such as `reason_seg/val/199953_…`.
        query: question as it was asked.
        intersection, union: pixels in the intersection and the union of prediction and target, at the original size.
        num_targets: number of target masks; 0 if the target is not in the image.
        num_predictions: number of `[SEG]` tokens in the answer.
        complete: True if the model ended its turn, False if the token limit cut it off.
    """

    source: str
    query: str
    intersection: int
    union: int
    num_targets: int
    num_predictions: int
    complete: bool

    @property
    def iou(self) -> float:
        """Return intersection / union, or 1 if prediction and target are both empty."""
        return self.intersection / self.union if self.union else 1.0

    @property
    def numbers(self) -> tuple[int, int, int, int, int]:
        """Return one row of `summarize_counts`. Its length is fixed, so that ranks can gather rows as a tensor."""
        return (self.intersection, self.union, self.num_targets, self.num_predictions, int(self.complete))


def intersection_and_union(pred: np.ndarray, target: np.ndarray) -> tuple[int, int]:
    """Return the numbers of foreground pixels in the intersection and in the union of prediction and target.

    Args:
        pred: (H, W) bool.
        target: (H, W) uint8 of 0, 1 and 255. Pixels with 255 are ignored.
    """
    if pred.dtype != bool or pred.shape != target.shape:
        raise ValueError(
            f"Prediction must be bool with the shape of the target, got {pred.dtype} {pred.shape} and target "
            f"{target.dtype} {target.shape}; resize the logits to the target's size and threshold them first."
        )
    counted = target != IGNORE_VALUE
    foreground = target == 1
    return int((pred & foreground).sum()), int(((pred | foreground) & counted).sum())


def unite(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the union (H, W) of K masks (K, H, W), in their dtype.

    bool: True where any mask is True. uint8: 1 where any mask is 1, else 255 where any mask is 255, else 0.

    Args:
        masks: (K, H, W) bool (predictions) or uint8 of 0, 1, 255 (targets).
        size: (height, width) in pixels, also of the empty mask that is returned for K = 0.
    """
    if masks.dtype not in (np.dtype(bool), np.dtype(np.uint8)):
        raise ValueError(f"masks must be bool (predictions) or uint8 of 0, 1, 255 (targets), got {masks.dtype}.")
    if len(masks) == 0:
        return np.zeros(size, dtype=masks.dtype)
    if masks.shape[1:] != tuple(size):
        raise ValueError(f"masks have size {masks.shape[1:]} but the image is {tuple(size)} (height, width).")
    if masks.dtype == bool:
        return masks.any(axis=0)
    united = np.where((masks == IGNORE_VALUE).any(axis=0), IGNORE_VALUE, 0).astype(np.uint8)
    united[(masks == 1).any(axis=0)] = 1
    return united


def summarize(results: Iterable[QueryResult]) -> dict[str, float | int | None]:
    """Return `summarize_counts` of query results."""
    rows = [result.numbers for result in results]
    return summarize_counts(np.array(rows, dtype=np.int64).reshape(len(rows), NUM_COUNTS))


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
        counts: (N, 5) int64, columns in the order of `QueryResult.numbers`.
    """
    if counts.ndim != 2 or counts.shape[1] != NUM_COUNTS:
        raise ValueError(f"counts must have shape (N, {NUM_COUNTS}) as QueryResult.numbers, got {counts.shape}.")
    num_targets, num_predictions, complete = counts.T[2:]
    scores = {name: _ratio(of[over > 0].sum(), over.sum()) for name, (of, over) in _ratios(counts).items()}
    return scores | {
        "count": len(counts),
        "count_target": int((num_targets > 0).sum()),
        "count_no_target": int((num_targets == 0).sum()),
        "count_plural": int((num_targets > 1).sum()),
        "cut_off": int(((num_predictions == 0) & (complete == 0)).sum()),
    }


def intervals(results: Iterable[QueryResult], resamples: int = 2000, seed: int = 0) -> dict[str, list[float] | None]:
    """Return the bootstrap 95% CI [low, high] of each score of `summarize`, or None for a score over no queries.

    Rows (`source`) are resampled, not queries, because the results of queries about one image are correlated.

    Args:
        results: results of the queries.
        resamples: number of bootstrap samples.
        seed: seed of the resampling.
    """
    results = list(results)
    if not results:
        return {}
    _, row_of = np.unique([result.source for result in results], return_inverse=True)  # (N,)
    num_rows = row_of.max() + 1
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=resamples)  # (R, rows)
    found = {}
    for name, (of, over) in _ratios(np.array([result.numbers for result in results], dtype=np.int64)).items():
        totals = drawn @ np.stack([np.bincount(row_of, weights=part) for part in (of, over)], axis=1)  # (R, 2)
        totals = totals[totals[:, 1] > 0]
        found[name] = np.percentile(totals[:, 0] / totals[:, 1], [2.5, 97.5]).tolist() if len(totals) else None
    return found


def _ratios(counts: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
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


def _ratio(total: float, count: int) -> float | None:
    return float(total / count) if count else None
