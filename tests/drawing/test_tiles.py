"""Boards of tiles: an image with its masks, a coloured frame and the question."""

import numpy as np
import pytest
from grey_pictures import box_mask, colours, grey_image

from gemma_lisa.drawing import tiles
from gemma_lisa.drawing.overlay import PALETTE
from gemma_lisa.drawing.sheet import GOOD, POOR
from gemma_lisa.drawing.tiles import draw_board


def tile(**changes) -> dict:
    fields = {
        "image": grey_image(),
        "masks": box_mask(8, 8, 40, 40)[None],
        "question": "the square",
        "note": "IoU 1.00",
    }
    return {**fields, "is_right": True, **changes}


def test_the_frame_says_whether_the_answer_is_right():
    right, wrong = (colours(draw_board([("red", [tile(is_right=is_right)])])) for is_right in (True, False))
    assert GOOD in right and POOR not in right
    assert POOR in wrong and GOOD not in wrong


def test_masks_are_drawn_and_a_missing_mask_is_named():
    nothing = np.zeros((0, 64, 64), dtype=bool)
    assert PALETTE[0] in colours(draw_board([("red", [tile()])]))
    without = draw_board([("red", [tile(masks=nothing)])])
    assert PALETTE[0] not in colours(without)
    blank = draw_board([("red", [tile(masks=np.zeros((1, 64, 64), dtype=bool))])])
    assert np.array_equal(np.asarray(without), np.asarray(blank))  # both say "no mask"


def test_groups_are_in_columns_and_a_group_can_be_empty():
    one = draw_board([("red", [tile(), tile()])])
    two = draw_board([("red", [tile(), tile()]), ("circle", [])], columns=2)
    assert two.height == one.height and two.width == pytest.approx(2 * one.width, rel=0.1)
    below = draw_board([("red", [tile()]), ("circle", [tile()])])
    assert below.width < one.width and below.height == pytest.approx(2 * one.height, rel=0.1)


def test_a_long_question_is_wrapped_to_its_tile():
    long = draw_board([("red", [tile(question="the thing that has the colour of a ripe tomato " * 3)])])
    short = draw_board([("red", [tile()])])
    assert long.width == short.width and long.height > short.height + 3 * tiles.TILE_FONT


def test_an_image_that_is_not_square_keeps_its_proportions():
    wide = draw_board([("red", [tile(image=grey_image(64, 32), masks=np.ones((1, 32, 64), dtype=bool))])])
    assert wide.height < draw_board([("red", [tile()])]).height


def test_a_board_without_tiles_is_an_error():
    with pytest.raises(ValueError, match="No tiles to draw"):
        draw_board([("red", [])])
