"""The predictions of a file before they are compared with the questions, and checks that all formats share."""

from dataclasses import dataclass, field
from typing import Any

from gemma_lisa.safety.short_text import count_of, name_of, show

FIRST_ID_KEYS = ("question_id", "id")


@dataclass
class Entry:
    """The prediction for one question, with masks as the file has them.

    Args:
        where: names the entry in errors: file, and line or id.
        name: what names the question (`Benchmark.index_of`): an id, or the number of the question.
        size: (height, width) in pixels that the file gives for the masks of the question; None if it gives none.
        asked: (name of the image, text of the question) if the file names no id (`Benchmark.asked_about`).
        masks: one segmentation per mask: polygons or RLE, as in `coco_segmentation.segmentation_runs`. None if the file
            says nothing about masks.
        scores: as in `Prediction`.
        facts: other fields of `Prediction`.
    """

    where: str
    name: str | int | None
    masks: list[Any] | None
    scores: list[float]
    asked: tuple[str, str] | None = None
    size: tuple[int, int] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def id_of(record: dict[str, Any], where: str, keys: tuple[str, ...] = FIRST_ID_KEYS) -> str | int:
    """Return the value of the first of these keys that a record has.

    Raises:
        ValueError: it has none of them, or its value is not a text or a whole number.
    """
    for key in keys:
        if key in record:
            value = record[key]
            if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
                raise ValueError(f"{where}: {key} must be an id or the number of a question, got {show(value)}.")
            return value
    raise ValueError(f"{where}: the id of its question is missing; add the key {keys[0]}.")


def list_of(record: dict[str, Any], key: str, where: str) -> list[Any]:
    """Return the list of a key.

    Raises:
        ValueError: the key is missing, or its value is not a list.
    """
    if not isinstance(record.get(key), list):
        got = show(record[key]) if key in record else "nothing"
        raise ValueError(f"{where}: {key} must be a list, got {got}; write [] if there is nothing in the image.")
    return record[key]


def check_scores(scores: list[Any], num_masks: int, where: str) -> list[float]:
    """Return the scores of masks as numbers.

    Raises:
        ValueError: their number is not that of the masks, or one is not a number between 0 and 1.
    """
    if scores and len(scores) != num_masks:
        raise ValueError(
            f"{where}: {count_of(len(scores), 'score')} for {count_of(num_masks, 'mask')}; give one score per mask."
        )
    for score in scores:
        is_number = isinstance(score, int | float) and not isinstance(score, bool)
        if not is_number or not 0 <= score <= 1:  # also NaN, and integers that are too large for a float
            raise ValueError(f"{where}: a score must be a number between 0 and 1, got {show(score)}.")
    return [float(score) for score in scores]


def check_boxes(boxes: Any, num_masks: int, where: str) -> None:
    """Check that there is one box per mask, if there are boxes. They are not used, but a box can show a lost mask.

    Raises:
        ValueError: there is another number of boxes, or they are not a list.
    """
    if boxes is None:
        return
    if not isinstance(boxes, list):
        raise ValueError(f"{where}: boxes must be a list, got {show(boxes)}.")
    if len(boxes) != num_masks:
        raise ValueError(
            f"{where}: {count_of(len(boxes), 'box', 'boxes')} for {count_of(num_masks, 'mask')}; give one box per mask."
        )


def place_of(path: Any, what: Any) -> str:
    """Return the place of an entry in errors: the file, and the id, line or key in it."""
    return f"{path}: {name_of(what)}"
