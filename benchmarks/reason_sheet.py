"""The contact sheet of reason.py: test concepts of each color and shape, with the model's masks."""

import re
from collections.abc import Callable

import numpy as np
from PIL import Image

from gemma_lisa.datasets_builder.rows import decode_mask
from gemma_lisa.datasets_builder.synthetic.concepts import TEST, Concept
from gemma_lisa.datasets_builder.synthetic.shapes_reason_phrases import VALUES
from gemma_lisa.drawing.tiles import draw_board
from gemma_lisa.evaluation.records import Judged

PER_VALUE = 4
COLUMNS = 2  # colors on the left, shapes on the right


def concepts_in(text: str) -> list[Concept]:
    """Return the test concepts that a question names."""
    return [concept for concept in TEST if re.search(rf"(?<!\w){re.escape(concept.phrase)}(?!\w)", text)]


def choose(judged: list[Judged], per_value: int = PER_VALUE) -> dict[str, list[int]]:
    """Return, for each color and shape, the indices of questions for it. The answers are not looked at.

    Each question and each concept occurs once. The first questions are taken, those that name one concept only before
    the others.

    Args:
        judged: answers to questions of all kinds.
        per_value: maximum number of questions per color or shape.
    """
    chosen: dict[str, list[int]] = {value: [] for values in VALUES.values() for value in values}
    used: set[Concept] = set()
    questions = [
        (len(found), index, found)
        for index, one in enumerate(judged)
        if one.question.kind == "concept" and one.question.targets
        if (found := concepts_in(one.question.text))
    ]
    for _, index, found in sorted(questions, key=lambda question: question[:2]):
        for concept in found:
            if concept not in used and len(chosen[concept.value]) < per_value:
                chosen[concept.value].append(index)
                used.add(concept)
                break
    return chosen


def draw_concepts(judged: list[Judged], image_of: Callable[[int], Image.Image]) -> Image.Image:
    """Return the contact sheet. A green frame marks an answer without an error (IoU of at least 0.8).

    Below a question is what the model says that was asked for, such as "The red shape:", and the IoU.

    Args:
        judged: as in `choose`.
        image_of: returns the image of a question, given its index.

    Raises:
        ValueError: no question names a test concept.
    """
    chosen = choose(judged)
    groups = []
    for pair in zip(*VALUES.values(), strict=True):  # a color and a shape per row
        for value in pair:
            groups.append((value, [_tile(judged[index], image_of(index)) for index in chosen[value]]))
    return draw_board(groups, COLUMNS)


def _tile(one: Judged, image: Image.Image) -> dict:
    said, colon, _ = (one.prediction.text or "").partition(":")
    masks = [decode_mask(rle, one.question.id) for rle in one.prediction.masks]
    return {
        "image": image,
        "masks": np.array(masks, dtype=bool).reshape(-1, *one.question.size),
        "question": one.question.text,
        "note": f"{said + colon if colon else ''} IoU {one.iou:.2f}",
        "is_right": one.error is None,
    }
