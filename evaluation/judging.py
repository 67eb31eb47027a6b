"""Compare a prediction with the right answer of its question."""

from dataclasses import dataclass

import numpy as np

from gemma_lisa.datasets_builder.rows import SEG_SLOT

from . import mask_algebra
from .error_classes import MIN_FIT, classify
from .matching import match
from .phrases import judge_phrases
from .records import RLE, Judged, Prediction, Question


@dataclass(frozen=True)
class _Masks:
    """Masks of a question and its prediction at the size of the image, with valid counts.

    Args:
        predicted: of the answer.
        visible: the same without the ignore region.
        targets, others: of the question.
        ignored: ignore region outside the targets; None if there is none.
    """

    predicted: list[RLE]
    visible: list[RLE]
    targets: list[RLE]
    others: list[RLE]
    ignored: RLE | None


def judge(question: Question, prediction: Prediction) -> Judged:
    """Return the prediction compared with the right answer.

    Pixels of the ignore region are removed from the predicted masks, unless they are in a target.

    Raises:
        ValueError: a mask is not valid or not at the size of the image, or the prediction is of another question.
    """
    if prediction.id != question.id:
        raise ValueError(f"the prediction of {prediction.id} was compared with the question {question.id}.")
    if question.targets is None:
        return _judge_text(question, prediction)
    masks = _masks_of(question, prediction)
    predicted = mask_algebra.unite(masks.visible, question.size)
    target = mask_algebra.unite(masks.targets, question.size)
    intersection = mask_algebra.area(mask_algebra.intersect(predicted, target))
    union = mask_algebra.area(predicted) + mask_algebra.area(target) - intersection
    iou = intersection / union if union else 1.0
    ious = mask_algebra.pairwise_iou(masks.visible, masks.targets)
    num_empty = sum(mask_algebra.area(mask) == 0 for mask in masks.predicted)
    error = classify(
        num_targets=len(masks.targets),
        says_present=says_present(prediction) and (not masks.targets or num_empty < len(masks.predicted)),
        complete=prediction.complete,
        iou=iou,
        ious=ious,
        other_ious=lambda: _other_ious(masks),
    )
    right, num_judged = judge_phrases(question, prediction, masks.visible, [*masks.targets, *masks.others])
    return Judged(
        question=question,
        prediction=prediction,
        intersection=intersection,
        union=union,
        iou=iou,
        boundary_iou=_boundary_iou(masks, question.size) if masks.targets else None,
        matched_ious=[float(ious[pair]) for pair in match(ious)],
        ordered_ious=[float(value) for value in np.diagonal(ious)],
        error=error,
        phrases_right=right,
        phrases_judged=num_judged,
        is_right=None,
    )


def says_present(prediction: Prediction) -> bool:
    """Return whether the system says that the target is in the image."""
    return bool(prediction.masks) if prediction.refused is None else not prediction.refused


def refuses(prediction: Prediction) -> bool:
    """Return whether the system says that the target is not in the image. An answer that was cut off does not."""
    if prediction.refused is None:
        return not prediction.masks and prediction.complete
    return prediction.refused


def _masks_of(question: Question, prediction: Prediction) -> _Masks:
    def checked(masks: list[RLE]) -> list[RLE]:
        return [mask_algebra.checked(mask, question.size, question.id) for mask in masks]

    predicted, targets, others = checked(prediction.masks), checked(question.targets), checked(question.others)
    if question.ignore is None:
        return _Masks(predicted, predicted, targets, others, None)
    ignored = mask_algebra.subtract(checked([question.ignore])[0], mask_algebra.unite(targets, question.size))
    visible = [mask_algebra.subtract(mask, ignored) for mask in predicted]
    return _Masks(predicted, visible, targets, others, ignored)


def _boundary_iou(masks: _Masks, size: tuple[int, int]) -> float:
    predicted, target = mask_algebra.unite(masks.predicted, size), mask_algebra.unite(masks.targets, size)
    return mask_algebra.boundary_iou(predicted, target, masks.ignored)


def _other_ious(masks: _Masks) -> np.ndarray:
    """Return the IoU of each predicted mask with each other thing (P, O), without those that fit a target: the same."""
    same = mask_algebra.pairwise_iou(masks.targets, masks.others).max(axis=0, initial=0)
    others = [other for other, iou in zip(masks.others, same, strict=True) if iou < MIN_FIT]
    return mask_algebra.pairwise_iou(masks.visible, others)


def _judge_text(question: Question, prediction: Prediction) -> Judged:
    return Judged(
        question=question,
        prediction=prediction,
        intersection=0,
        union=0,
        iou=1.0,
        boundary_iou=None,
        matched_ious=[],
        ordered_ious=[],
        error=None,
        phrases_right=0,
        phrases_judged=0,
        is_right=prediction.text is not None and plain_text(prediction.text) == plain_text(question.expected),
    )


def plain_text(text: str) -> str:
    """Return an answer without slots of masks, case, repeated spaces and the full stop, to compare two answers."""
    return " ".join(text.replace(SEG_SLOT, "").lower().rstrip(". ").split())
