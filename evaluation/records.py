"""The records of an evaluation: a question, the prediction of any system, and the judged prediction.

They are plain data without torch, so that predictions of other systems are scored without a model. Masks are RLE dicts
of `datasets_builder.rows.RLE`: {"size": [height, width], "counts": str}.
"""

from dataclasses import dataclass, field
from typing import Any

RLE = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """One question about one image, and its right answer.

    Args:
        id: source of the row, `#` and the number of the question in its row: `reason_seg/val/199953_…#0`. Unique in a
            data set.
        dataset: name of the data set, such as `shapes/hard`.
        source: row of the data set.
        kind: kind of the question, if the row has one.
        text: question as it is asked, in its plain phrasing.
        expected: right answer, with `{seg}` for each mask.
        size: (height, width) of the image in pixels; None for a question without an image.
        targets: one mask per target, []: not in the image; None for a VQA question.
        ignore: ignore region; None if there is none.
        others: masks of the other annotated things of the image, that is of the other questions of its row.
        names: what the row calls each thing, one list per mask of `targets` and then of `others`, and a last list with
            the names of absent things (`phrases.names_of`); [] if unknown.
    """

    id: str
    dataset: str
    source: str
    kind: str | None
    text: str
    expected: str
    size: tuple[int, int] | None
    targets: list[RLE] | None
    ignore: RLE | None
    others: list[RLE]
    names: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class Prediction:
    """The answer of a system to one question.

    Args:
        id: of the question.
        masks: predicted masks at the size of the image; []: the system says that the target is not in the image.
        scores: confidence of each mask between 0 and 1; [] if the system gives none.
        text: answer in words; None if the system gives none. A model's `[SEG]` stay in it.
        phrases: words that name each mask, one entry per mask; [] if the system gives none.
        complete: False if the token limit cut off the answer.
        tokens: number of generated tokens; None if unknown.
        seconds: seconds for the answer, a batch's time divided by its questions; None if unknown.
        likelihood: mean log-likelihood per token of the right answer to a VQA question; None if not measured.
        refused: whether the system says that the target is not in the image. None: it does so if there are no masks and
            the answer is complete. Under teacher forcing, masks are decoded even if the model would have refused.
    """

    id: str
    masks: list[RLE]
    scores: list[float]
    text: str | None = None
    phrases: list[str] | None = None
    complete: bool = True
    tokens: int | None = None
    seconds: float | None = None
    likelihood: float | None = None
    refused: bool | None = None


@dataclass(frozen=True)
class Judged:
    """A prediction compared with the right answer: one row of the questions file. Pixels are at the image's size.

    Args:
        question, prediction: what was asked, and what was answered.
        intersection, union: pixels of the united predicted masks and the united targets, without the ignore region.
        iou: intersection / union; 1 if both are empty.
        boundary_iou: IoU of the two boundaries; None without a target.
        matched_ious: IoU of each pair of predicted mask and target, matched one to one; [] without a target.
        ordered_ious: IoU of the first mask with the first target, of the second with the second, ….
        error: class of the error in `error_classes.CLASSES`; None if the answer has no error.
        phrases_right, phrases_judged: number of phrases that are true of their mask, and of phrases that were judged.
        is_right: whether the answer to a VQA question is the right one; None for a question with masks.
    """

    question: Question
    prediction: Prediction
    intersection: int
    union: int
    iou: float
    boundary_iou: float | None
    matched_ious: list[float]
    ordered_ious: list[float]
    error: str | None
    phrases_right: int
    phrases_judged: int
    is_right: bool | None
