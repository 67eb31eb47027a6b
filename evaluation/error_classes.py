"""Put each question with an error into exactly one class, and measure what each class costs.

`classify` decides in this order. Each step removes the questions that would make the next step say something else:

1. `cut off`: the token limit ended the answer before it had as many masks as targets. The system had not decided yet,
   so neither a missing mask nor a missing refusal shows what it believes.
2. `presence`: it says that the target is not in the image although it is, or the opposite, or all its masks are empty.
   A mask of nothing cannot be compared with things.
3. No error: as many masks as targets, and a fit of at least 0.8. The fit is the smaller one of two numbers:
   the IoU of the united masks, and the mean IoU of masks matched one to one. For one mask and one target, both are
   equal.
4. `selection`: a mask that could be a target's is on something else. It comes before the number of masks, because a
   mask of the wrong thing is wrong in any number. See `_num_selected`.
5. `count`: the masks are on targets, but there are too few or too many of them.
6. `boundary`: as many masks as targets, each on a target of its own, but the fit is below 0.8.
"""

from collections.abc import Callable, Iterable

import numpy as np

from .matching import match
from .records import Judged

CUT_OFF, PRESENCE, SELECTION, COUNT, BOUNDARY = CLASSES = ("cut off", "presence", "selection", "count", "boundary")
RIGHT = "right"  # questions without an error
MEANINGS = {
    "cut off": "the token limit ended the answer before it had all masks",
    "presence": "said to be in the image although it is not, or the opposite",
    "selection": "a mask is on something else than a target",
    "count": "masks are on targets, but too few or too many",
    "boundary": "masks are on the right things, but the IoU is below 0.8",
    "right": "no error: IoU of at least 0.8",
}
MIN_FIT = 0.8  # IoU of a mask that fits
# Means of IoUs are rounded: (0.6 + 0.9 + 0.9) / 3 is 0.7999999999999999
ROUNDING = 1e-12
# A mask with a lower IoU is not on its target. TIDE (Bolya et al. 2020, arXiv 2008.08115) uses the same limit for
# detections in the background.
MIN_OVERLAP = 0.1


def classify(
    num_targets: int,
    says_present: bool,
    complete: bool,
    iou: float,
    ious: np.ndarray,
    other_ious: Callable[[], np.ndarray],
) -> str | None:
    """Return the class of the error of one answer, or None if it has no error. The module describes the order.

    Args:
        num_targets: number of targets T; 0 if the target is not in the image.
        says_present: whether the system says that the target is in the image.
        complete: whether the answer ended before the token limit.
        iou: IoU of the united masks and the united targets.
        ious: (P, T) IoU of each predicted mask with each target.
        other_ious: returns (P, O), the IoU of each predicted mask with each other annotated thing. It is called only if
            it is needed.
    """
    num_masks = len(ious)
    if not complete and num_masks < max(num_targets, 1):
        return CUT_OFF
    if says_present != (num_targets > 0):
        return PRESENCE
    if num_targets == 0:
        return None
    matched = sum(ious[pair] for pair in match(ious))
    if num_masks == num_targets and min(iou, matched / num_targets) >= MIN_FIT - ROUNDING:
        return None
    if _num_selected(ious, other_ious()) < min(num_masks, num_targets):
        return SELECTION
    return BOUNDARY if num_masks == num_targets else COUNT


def _num_selected(ious: np.ndarray, other_ious: np.ndarray) -> int:
    """Return the number of targets that a mask was selected for.

    A mask is on a target if no other annotated thing fits it better and the IoU is at least MIN_OVERLAP. Each mask is
    on one target at most, so two masks on the same target select one.
    """
    is_on_target = ious >= MIN_OVERLAP
    if other_ious.size:
        is_on_target[other_ious.max(axis=1) > ious.max(axis=1)] = False
    allowed = np.where(is_on_target, 1 + ious, 0.0)  # first as many pairs as possible, then the largest IoU
    return sum(bool(is_on_target[pair]) for pair in match(allowed))


def summarize_errors(judged: Iterable[Judged]) -> dict[str, dict[str, float | int]]:
    """Return for each class, and for RIGHT, the number and share of its questions, and its cost in gIoU_all.

    The cost is Σ (1 - IoU) / N over the questions of the class, with N = number of all questions that ask for masks.
    All costs together are 1 - gIoU_all, and all shares together are 1.
    """
    asked = [one for one in judged if one.question.targets is not None]
    found = {}
    for name in (*CLASSES, RIGHT):
        losses = [1 - one.iou for one in asked if (one.error or RIGHT) == name]
        found[name] = {
            "count": len(losses),
            "share": len(losses) / len(asked) if asked else 0.0,
            "cost": sum(losses) / len(asked) if asked else 0.0,
        }
    return found
