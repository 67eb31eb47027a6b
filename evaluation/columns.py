"""The numbers of each question whose sums give the scores of `metrics`."""

from collections.abc import Callable

import numpy as np

from . import lisa_style
from .judging import refuses, says_present
from .records import Judged

EXACT, LISA = STYLES = ("exact", "lisa")
THRESHOLDS = np.linspace(0.5, 0.95, 10)  # IoU thresholds of COCO
PRECISIONS = (0.5, 0.7, 0.9)  # IoU thresholds of P@
MOST_TARGETS = 4  # gIoU_4+ is for four or more


def columns_of(judged: list[Judged], style: str = EXACT) -> dict[str, np.ndarray]:
    """Return the numbers of N questions, each (N,) float64, or (N, 10) with one column per IoU threshold.

    Args:
        judged: predictions, compared with the right answers.
        style: `lisa` adds the numbers of LISA's arithmetic.
    """
    if style not in STYLES:
        raise ValueError(f"the metric style must be one of {', '.join(STYLES)}, got {style!r}.")

    def each(number: Callable[[Judged], float], shape: tuple[int, ...] = ()) -> np.ndarray:
        return np.array([number(one) for one in judged], dtype=np.float64).reshape(len(judged), *shape)

    columns = _of_masks(each) | _of_instances(each) | _of_text(each)
    if style == LISA:
        names = ("lisa_iou", "lisa_masks", "lisa_intersection", "lisa_union")
        sums = each(lambda one: lisa_style.sums(one) if _asks(one) else (0, 0, 0, 0), (len(names),))
        columns |= dict(zip(names, sums.T, strict=True))
    return columns


def _of_masks(each: Callable) -> dict[str, np.ndarray]:
    asks, num_targets = each(_asks), each(_num_targets)
    iou = each(lambda one: one.iou)
    target = asks * (num_targets > 0)
    no_target = asks * (num_targets == 0)
    present, refused = each(lambda one: says_present(one.prediction)), each(lambda one: refuses(one.prediction))
    columns = {
        "asked": asks,
        "iou": iou * asks,
        "intersection": each(lambda one: one.intersection),
        "union": each(lambda one: one.union),
        "target": target,
        "iou_target": iou * target,
        "plural": target * (num_targets > 1),
        "iou_plural": iou * target * (num_targets > 1),
        "no_target": no_target,
        "refused": refused * no_target,
        "answered": present * target,
        "boundary_iou": each(lambda one: one.boundary_iou or 0.0),
    }
    for count in range(1, MOST_TARGETS + 1):
        columns[f"target_{count}"] = target * (np.minimum(num_targets, MOST_TARGETS) == count)
        columns[f"iou_{count}"] = iou * columns[f"target_{count}"]
    for least in PRECISIONS:
        columns[f"precise_{least}"] = target * (iou >= least)
    return columns


def _of_instances(each: Callable) -> dict[str, np.ndarray]:
    num_targets, num_masks = each(_num_targets), each(lambda one: len(one.prediction.masks))
    target, plural = num_targets > 0, num_targets > 1
    most = np.maximum(np.maximum(num_targets, num_masks), 1)
    found = each(
        lambda one: (np.array(one.matched_ious)[:, None] >= THRESHOLDS).sum(axis=0), (len(THRESHOLDS),)
    )  # (N, 10) matched pairs at each threshold
    both = (num_targets + num_masks)[:, None]
    return {
        "matched": each(lambda one: sum(one.matched_ious)) / most * plural,
        "ordered": each(lambda one: sum(one.ordered_ious)) / most * plural,
        "found": found * target[:, None],
        "found_plural": found * plural[:, None],
        "masks_and_targets": both[:, 0] * target,
        "masks_and_targets_plural": both[:, 0] * plural,
    }


def _of_text(each: Callable) -> dict[str, np.ndarray]:
    is_known = {
        "tokens": lambda one: one.prediction.tokens,
        "seconds": lambda one: one.prediction.seconds,
        "likelihood": lambda one: one.prediction.likelihood,
    }
    columns = {
        "all": each(lambda one: 1),
        "cut_off": each(lambda one: not one.prediction.complete),
        "phrases_right": each(lambda one: one.phrases_right),
        "phrases_judged": each(lambda one: one.phrases_judged),
        "texts": each(lambda one: not _asks(one)),
        "texts_right": each(lambda one: bool(one.is_right)),
    }
    for name, number in is_known.items():
        columns[name] = each(lambda one, number=number: number(one) or 0)
        columns[f"{name}_known"] = each(lambda one, number=number: number(one) is not None)
    return columns


def _asks(judged: Judged) -> bool:
    return judged.question.targets is not None


def _num_targets(judged: Judged) -> int:
    return len(judged.question.targets or [])
