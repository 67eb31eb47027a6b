"""gIoU and cIoU as the code of LISA computes them: per mask, with its epsilons.

Source: `validate` in train_ds.py and `AverageMeter` in utils/utils.py of dvlab-research/LISA, commit 3cb2d43 (arXiv
2308.00692). There, each mask has an IoU of intersection / (union + 1e-5), or 1 if the union is empty.

- gIoU = Σ IoU / (number of masks + 1e-5)
- cIoU = Σ intersections / (Σ unions + 1e-10)

LISA compares the k-th predicted mask with the k-th target, and a question without a target as one empty mask. It is
given the number of masks. If an answer has another number, the shorter list is filled with empty masks here.
"""

import numpy as np

from . import mask_algebra
from .records import Judged

MASK_EPSILON = 1e-5  # added to each union, and to the number of masks
SUM_EPSILON = 1e-10  # added to the sum of all unions


def sums(judged: Judged) -> tuple[float, int, int, int]:
    """Return Σ IoU, number of masks, Σ intersections and Σ unions of one question that asks for masks."""
    pairs = [(judged.intersection, judged.union)]
    if max(len(judged.prediction.masks), len(judged.question.targets)) > 1:
        pairs = _pairs(judged)
    intersections, unions = np.array(pairs, dtype=np.int64).T
    ious = np.where(unions > 0, intersections / (unions + MASK_EPSILON), 1.0)
    return float(ious.sum()), len(pairs), int(intersections.sum()), int(unions.sum())


def giou(iou: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return LISA's gIoU of sums of IoUs and numbers of masks."""
    return iou / (masks + MASK_EPSILON)


def ciou(intersections: np.ndarray, unions: np.ndarray) -> np.ndarray:
    """Return LISA's cIoU of sums of intersections and unions."""
    return intersections / (unions + SUM_EPSILON)


def _pairs(judged: Judged) -> list[tuple[int, int]]:
    """Return (intersection, union) in pixels of each predicted mask with the target at the same place."""
    size, ignore, name = judged.question.size, judged.question.ignore, judged.question.id
    lists = [
        [mask_algebra.checked(mask, size, name) for mask in masks]
        for masks in (judged.prediction.masks, judged.question.targets)
    ]
    length = max(map(len, lists))
    predicted, targets = (masks + [mask_algebra.empty(size)] * (length - len(masks)) for masks in lists)
    found = []
    for mask, target in zip(predicted, targets, strict=True):
        if ignore is not None:
            ignored = mask_algebra.subtract(mask_algebra.checked(ignore, size, name), target)
            mask = mask_algebra.subtract(mask, ignored)
        intersection = mask_algebra.area(mask_algebra.intersect(mask, target))
        found.append((intersection, mask_algebra.area(mask) + mask_algebra.area(target) - intersection))
    return found
