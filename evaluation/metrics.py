"""Scores of reasoning segmentation: sums first, one division last.

A query is one question about one image. Its prediction is the union of all masks in the answer, its target the union
of all masks that were asked for. N = queries, K = masks of a query.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gemma_lisa.losses_gemma_lisa import IGNORE_VALUE

NUM_COUNTS = 5  # intersection, union, num_targets, num_predictions, complete


@dataclass(frozen=True)
class QueryResult:
    """What one query adds to the sums.

    Args:
        source: The row it comes from, as in `reason_seg/val/199953_…`.
        query: The question as it was asked.
        intersection, union: Foreground pixels of the united prediction and the united target, at the original size.
        num_targets: Masks that were asked for; 0 means that the thing is not there.
        num_predictions: `[SEG]` tokens in the answer.
        complete: The model ended its turn; False when the token limit cut it off.
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
        """1 where prediction and target are both empty."""
        return self.intersection / self.union if self.union else 1.0

    @property
    def numbers(self) -> tuple[int, int, int, int, int]:
        """One row of `summarize_counts`; integers of a fixed number, so that ranks can gather them."""
        return (self.intersection, self.union, self.num_targets, self.num_predictions, int(self.complete))


def intersection_and_union(pred: np.ndarray, target: np.ndarray) -> tuple[int, int]:
    """Foreground pixels that prediction and target share, and that at least one of them has.

    Args:
        pred: (H, W) bool.
        target: (H, W) uint8 of 0, 1 and 255; a 255 pixel is counted in neither number.
    """
    if pred.dtype != bool or pred.shape != target.shape:
        raise ValueError(
            f"prediction {pred.dtype} {pred.shape} and target {target.dtype} {target.shape}; "
            "they need one size, and the prediction bool: threshold the logits at the target's size first."
        )
    counted = target != IGNORE_VALUE
    foreground = target == 1
    return int((pred & foreground).sum()), int(((pred | foreground) & counted).sum())


def unite(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The one mask (H, W) that K masks (K, H, W) make together, in their dtype.

    bool: True where any is. uint8 of 0, 1, 255: 1 where any is 1, else 255 where any is 255, else 0.

    Args:
        size: (height, width) in pixels; no masks make an empty mask of this size.
    """
    if masks.dtype not in (np.dtype(bool), np.dtype(np.uint8)):
        raise ValueError(f"masks are {masks.dtype}; bool (predictions) or uint8 of 0, 1, 255 (targets) can be united.")
    if len(masks) == 0:
        return np.zeros(size, dtype=masks.dtype)
    if masks.shape[1:] != tuple(size):
        raise ValueError(f"masks are {masks.shape[1:]} but the image is {tuple(size)} (height, width).")
    if masks.dtype == bool:
        return masks.any(axis=0)
    united = np.where((masks == IGNORE_VALUE).any(axis=0), IGNORE_VALUE, 0).astype(np.uint8)
    united[(masks == 1).any(axis=0)] = 1
    return united


def summarize(results: Iterable[QueryResult]) -> dict[str, float | int | None]:
    """`summarize_counts` of records."""
    rows = [result.numbers for result in results]
    return summarize_counts(np.array(rows, dtype=np.int64).reshape(len(rows), NUM_COUNTS))


def summarize_counts(counts: np.ndarray) -> dict[str, float | int | None]:
    """The scores of N queries. A score over no queries is None: not measured is neither 0 nor perfect.

    - `gIoU`: mean IoU over queries with a target. Every query weighs the same, so small things count.
    - `gIoU_all`: the same over all queries, no-target ones included (both empty = 1, a mask for nothing = 0); the
      number LISA prints. An empty answer scores 1 here even when it was cut off: masks are compared, not words.
    - `gIoU_plural`: the same over queries with two masks or more, where finding only one of them shows.
    - `cIoU`: Σ intersections / Σ unions over all queries. Large things dominate; papers report it beside gIoU.
      None as well where every union is 0.
    - `N-acc`: share of no-target queries that were refused: the turn ended and pointed at nothing.
    - `T-acc`: share of target queries answered by at least one mask; it stops N-acc from being won by refusing always.
    - `cut_off`: answers that hit the token limit without a `[SEG]`, neither refusal nor answer.
    - `count`, `count_target`, `count_no_target`, `count_plural`: how many queries stand behind the above.

    LISA takes IoU = intersection / (union + 1e-5), 1 where the union is 0, sums it over masks and divides by their
    number + 1e-5; cIoU = Σ intersections / (Σ unions + 1e-10), so 0 where nothing was there. Ours divides exactly, and
    averages over queries. Where every query has one mask the two differ by those epsilons only.

    Args:
        counts: (N, 5) int64, columns in the order of `QueryResult.numbers`.
    """
    if counts.ndim != 2 or counts.shape[1] != NUM_COUNTS:
        raise ValueError(f"counts are {counts.shape}; (N, {NUM_COUNTS}) is needed, columns as in QueryResult.numbers.")
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
    """For each score of `summarize` [low, high], between which 95 of 100 other draws of as many rows would have it.

    Bootstrap over rows (`source`), not over queries, since the queries of one image succeed and fail together.
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
    """What each score sums up over what, of each of N queries (N,); counts as in `summarize_counts`."""
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
