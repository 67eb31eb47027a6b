"""Sheets of samples, with one card per sample."""

import numpy as np
import pytest
from grey_pictures import GREY_VALUE, box_mask, colours, grey_image

from gemma_lisa.drawing import sheet
from gemma_lisa.drawing.overlay import PALETTE
from gemma_lisa.drawing.sheet import draw_questions, draw_samples

PANEL_LEFTS = [sheet.SHEET_GAP + column * (sheet.PANEL + sheet.SHEET_GAP) for column in range(3)]


def sample(**changes) -> dict:
    mask = box_mask(8, 8, 40, 40)
    fields = {
        "image": grey_image(),
        "question": "the square",
        "target": mask.astype(np.uint8),
        "prediction": mask[None],
        "answer": "Here it is.",
        "iou": 1.0,
    }
    return fields | changes


def test_the_sheet_shows_target_and_prediction_beside_the_image():
    missed = sample(prediction=np.zeros((0, 64, 64), dtype=bool), iou=0.0)
    card = sheet._card(missed)
    thirds = [colours(card.crop((left, 0, left + sheet.PANEL, sheet.PANEL))) for left in PANEL_LEFTS]
    assert [PALETTE[0] in third for third in thirds] == [False, True, False]
    assert sheet.POOR in colours(card) and sheet.GOOD not in colours(card)
    assert sheet.GOOD in colours(sheet._card(sample()))


def test_ignored_pixels_are_hatched_on_the_target_only():
    target = box_mask(0, 0, 30, 30).astype(np.uint8)
    target[34:64, 34:64] = 255
    with_ignored = np.asarray(sheet._card(sample(target=target)))
    without = np.asarray(sheet._card(sample(target=(target == 1).astype(np.uint8))))
    rows, columns = np.nonzero((with_ignored != without).any(axis=2))
    left, scale = PANEL_LEFTS[1], sheet.PANEL / 64
    assert columns.min() >= left + 33 * scale and columns.max() <= left + sheet.PANEL
    assert rows.min() >= 33 * scale
    assert len({tuple(with_ignored[y, x]) for y, x in zip(rows, columns, strict=True)}) >= 2


def test_cards_are_drawn_in_the_given_number_of_columns():
    one, two = draw_samples([sample()] * 4), draw_samples([sample()] * 4, columns=2)
    assert two.width == pytest.approx(2 * one.width, rel=0.05) and two.height < 0.6 * one.height
    assert draw_samples([sample()], columns=2).size == draw_samples([sample()]).size


def test_a_question_without_masks_is_drawn_unlike_one_without_a_target():
    asked = {"image": grey_image(), "question": "How many are there?", "answer": "2."}
    shown = np.asarray(draw_questions([{**asked, "masks": None}]))
    missing = np.asarray(draw_questions([{**asked, "masks": np.zeros((0, 64, 64), dtype=np.uint8)}]))
    assert shown.shape == missing.shape
    panels = [(pixels == GREY_VALUE).all(axis=-1).sum() / sheet.PANEL**2 for pixels in (shown, missing)]
    assert panels[0] == pytest.approx(2, abs=0.02) and panels[1] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (2000, 1500)])
def test_images_of_any_size_and_samples_without_a_score_can_be_drawn(size):
    width, height = size
    mask = np.ones((height, width), dtype=bool)
    changes = {"image": grey_image(width, height), "target": mask.astype(np.uint8), "prediction": mask[None]}
    sheet = draw_samples([sample(), sample(iou=None, question="why " * 80, answer="", **changes)])
    assert sheet.width == draw_samples([sample()]).width


def test_a_target_of_a_few_pixels_is_visible_on_the_sheet():
    mask = box_mask(700, 700, 708, 708, 1500, 2000)
    changes = {"image": grey_image(2000, 1500), "target": mask.astype(np.uint8), "prediction": mask[None]}
    assert PALETTE[0] in colours(sheet._card(sample(**changes)))


def test_a_sheet_without_samples_is_refused():
    for draw in (draw_samples, draw_questions):
        with pytest.raises(ValueError, match="No samples"):
            draw([])
