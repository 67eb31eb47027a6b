"""Numbers of the questions with masks, as arrays: what the charts and the findings are computed from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gemma_lisa.datasets_builder.rows import decode_mask

from .. import mask_algebra
from ..judging import refuses, says_present
from ..records import RLE, Judged

COARSE = 64  # side of the grid on which masks are compared with the targets of other questions
COMPARED = 150  # maximum number of questions for this


@dataclass(frozen=True)
class Facts:
    """N questions with masks, one entry per question.

    Args:
        judged: the questions.
        has_target: (N,) bool: the target is in the image.
        answered: (N,) bool: the system says that the target is in the image, that is with a mask unless it was forced.
        refused: (N,) bool: the system says that the target is not in the image.
        ious: (N,) float.
        target_shares, prediction_shares: (N,) float: area of the united masks / area of the image.
    """

    judged: list[Judged]
    has_target: np.ndarray
    answered: np.ndarray
    refused: np.ndarray
    ious: np.ndarray
    target_shares: np.ndarray
    prediction_shares: np.ndarray

    def __len__(self) -> int:
        return len(self.judged)


def facts_of(judged: Sequence[Judged]) -> Facts:
    """Return the numbers of all questions with masks; VQA questions are not among them."""
    asked = [one for one in judged if one.question.targets is not None]
    return Facts(
        judged=asked,
        has_target=np.array([bool(one.question.targets) for one in asked], dtype=bool),
        answered=np.array([says_present(one.prediction) for one in asked], dtype=bool),
        refused=np.array([refuses(one.prediction) for one in asked], dtype=bool),
        ious=np.array([one.iou for one in asked], dtype=float),
        target_shares=np.array([share_of(one.question.targets) for one in asked], dtype=float),
        prediction_shares=np.array([share_of(one.prediction.masks) for one in asked], dtype=float),
    )


def share_of(masks: list[RLE]) -> float:
    """Return the area of the union of masks / the area of their image; 0 without a mask."""
    if not masks:
        return 0.0
    height, width = masks[0]["size"]
    return mask_algebra.area(mask_algebra.unite(masks, (height, width))) / (height * width)


def mask_scores(facts: Facts) -> tuple[np.ndarray, np.ndarray]:
    """Return (M,) predicted scores and (M,) real IoU of the masks of all answers that have a score for each mask.

    The real IoU of a mask is that with the target that it fits best, without the ignore region; 0 without a target.
    """
    scores, ious = [], []
    for judged in facts.judged:
        predicted = judged.prediction
        if predicted.masks and len(predicted.scores) == len(predicted.masks):
            scores += predicted.scores
            ious += best_ious(judged)
    return np.array(scores, dtype=float), np.array(ious, dtype=float)


def best_ious(judged: Judged) -> list[float]:
    """Return for each predicted mask the IoU with the target that it fits best, without the ignore region."""
    question, masks = judged.question, judged.prediction.masks
    if not question.targets:
        return [0.0] * len(masks)
    if question.ignore is not None:
        united = mask_algebra.unite(question.targets, question.size)
        ignored = mask_algebra.subtract(question.ignore, united)
        masks = [mask_algebra.subtract(mask, ignored) for mask in masks]
    return mask_algebra.pairwise_iou(masks, question.targets).max(axis=1).tolist()


def chance(facts: Facts) -> tuple[float, float, float] | None:
    """Return the mean IoU with the own target, with targets of other questions, and the standard error of the gain.

    Masks are compared on a coarse grid, stretched to the whole image. None if fewer than ten questions have a target
    and a mask.
    """
    both = np.flatnonzero(facts.has_target & (facts.prediction_shares > 0))
    if len(both) < 10:
        return None
    both = np.random.default_rng(0).permutation(both)[:COMPARED]
    predicted = np.stack([_coarse(facts.judged[at].prediction.masks) for at in both]).astype(np.float32)
    targets = np.stack([_coarse(facts.judged[at].question.targets) for at in both]).astype(np.float32)
    shared = predicted @ targets.T  # (n, n)
    unions = predicted.sum(axis=1)[:, None] + targets.sum(axis=1)[None] - shared
    ious = shared / np.maximum(unions, 1)
    own = np.diagonal(ious)
    others = (ious.sum(axis=1) - own) / (len(both) - 1)
    gains = own - others
    return float(own.mean()), float(others.mean()), float(gains.std() / len(gains) ** 0.5)


def _coarse(masks: list[RLE]) -> np.ndarray:
    """Return the union of masks at the points of the coarse grid, (COARSE * COARSE,) 0 or 1."""
    height, width = masks[0]["size"]
    united = decode_mask(mask_algebra.unite(masks, (height, width)), "mask")
    rows, columns = (((np.arange(COARSE) + 0.5) * side / COARSE).astype(int) for side in (height, width))
    return united[np.ix_(rows, columns)].ravel()
