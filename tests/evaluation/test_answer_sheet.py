"""A sheet of answers shows the union of the targets, the predicted masks and the IoU of each question."""

from types import SimpleNamespace

import numpy as np
import pytest
from grey_pictures import box_mask, grey_image

from gemma_lisa.drawing.sheet import draw_samples
from gemma_lisa.evaluation.answer_sheet import draw_answers
from gemma_lisa.lazy_images_gemma_lisa import LazyImage


def answer(targets: list[np.ndarray], masks: list[np.ndarray], iou: float) -> SimpleNamespace:
    return SimpleNamespace(
        question="the squares",
        target=np.array(targets, dtype=np.uint8).reshape(-1, 64, 64),
        masks=np.array(masks, dtype=bool).reshape(-1, 64, 64),
        raw_text="They are [SEG] and [SEG].",
        result=SimpleNamespace(iou=iou),
    )


def test_each_answer_is_a_card_with_the_union_of_its_targets_its_masks_and_its_iou():
    left, right = box_mask(4, 4, 20, 20), box_mask(30, 30, 60, 60)
    sample = {"image": LazyImage(grey_image())}
    card = {"image": sample["image"].load(), "question": "the squares", "answer": "They are [SEG] and [SEG]."}
    found = card | {"target": (left | right).astype(np.uint8), "prediction": np.stack([left, right]), "iou": 1.0}
    missed = card | {"target": left.astype(np.uint8), "prediction": np.zeros((0, 64, 64), dtype=bool), "iou": 0.0}
    answers = [answer([left, right], [left, right], 1.0), answer([left], [], 0.0)]
    for columns in (1, 2):
        drawn = draw_answers([sample, sample], answers, columns)
        assert drawn.tobytes() == draw_samples([found, missed], columns).tobytes()
    assert draw_answers([sample, sample], answers).size == drawn.size
    assert draw_answers([sample], answers[:1]).tobytes() != draw_answers([sample], answers[1:]).tobytes()


def test_every_sample_must_have_an_answer():
    with pytest.raises(ValueError):
        draw_answers([{"image": grey_image()}], [])
