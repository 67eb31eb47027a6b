"""A sheet of answers shows the union of the targets, the predicted masks and the IoU of each question."""

import numpy as np
import pytest
from grey_pictures import box_mask, grey_image

from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.drawing.sheet import draw_samples
from gemma_lisa.evaluation.answer_sheet import draw_answers
from gemma_lisa.evaluation.judging import judge
from gemma_lisa.evaluation.records import Prediction, Question

TEXT = "They are [SEG] and [SEG]."


def judged(targets, masks, ignore=None):
    """Return judged masks of the grey image of 64 x 64 pixels."""
    encoded = [encode_mask(mask) for mask in targets]
    ignore = None if ignore is None else encode_mask(ignore)
    question = Question("a#0", "d", "a", None, "the squares", "", (64, 64), encoded, ignore, [])
    return judge(question, Prediction("a#0", [encode_mask(mask) for mask in masks], [0.5] * len(masks), text=TEXT))


def test_each_answer_is_a_card_with_the_union_of_its_targets_its_masks_and_its_iou():
    left, right = box_mask(4, 4, 20, 20), box_mask(30, 30, 60, 60)
    image = grey_image()
    card = {"image": image, "question": "the squares", "answer": TEXT}
    found = card | {"target": (left | right).astype(np.uint8), "prediction": np.stack([left, right]), "iou": 1.0}
    target = np.where(left, 1, np.where(right, 255, 0)).astype(np.uint8)
    missed = card | {"target": target, "prediction": np.zeros((0, 64, 64), dtype=bool), "iou": 0.0}
    answers = [judged([left, right], [left, right]), judged([left], [], right | left)]
    for columns in (1, 2):
        drawn = draw_answers(answers, [image, image], columns)
        assert drawn.tobytes() == draw_samples([found, missed], columns).tobytes()
    assert draw_answers(answers, [image, image]).size == drawn.size
    assert draw_answers(answers[:1], [image]).tobytes() != draw_answers(answers[1:], [image]).tobytes()


def test_every_answer_must_have_an_image():
    with pytest.raises(ValueError):
        draw_answers([judged([], [])], [])
