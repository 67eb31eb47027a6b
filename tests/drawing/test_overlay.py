"""Masks drawn on an image, and the question and answer below it."""

import numpy as np
import pytest
from grey_pictures import GREY_VALUE, box_mask, colours, grey_image
from PIL import Image, ImageFont

from gemma_lisa.drawing import overlay
from gemma_lisa.drawing.overlay import PALETTE, draw_answer, draw_overlay, paint_masks


def test_the_colours_of_the_palette_are_distinct():
    distances = [np.abs(np.subtract(a, b)).sum() for i, a in enumerate(PALETTE) for b in PALETTE[:i]]
    assert len(PALETTE) >= 10 and min(distances) > 100


def test_a_mask_is_filled_and_outlined_and_other_pixels_do_not_change():
    overlay = np.asarray(draw_overlay(grey_image(), box_mask(16, 16, 48, 48)[None]))
    assert overlay.shape == (512, 512, 3)
    inside, edge, outside = overlay[256, 256], overlay[256, 128], overlay[40, 40]
    low, high = np.minimum(PALETTE[0], GREY_VALUE), np.maximum(PALETTE[0], GREY_VALUE)
    assert (low < inside).all() and (inside < high).all()
    assert tuple(edge) == PALETTE[0]
    assert tuple(outside) == (GREY_VALUE,) * 3


def test_each_mask_has_its_own_colour_and_its_number():
    masks = np.stack([box_mask(4, 4, 28, 28), box_mask(36, 36, 60, 60)])
    both = draw_overlay(grey_image(), masks)
    assert {PALETTE[0], PALETTE[1]} <= colours(both)
    alone = np.asarray(draw_overlay(grey_image(), masks[:1]))
    middle = (slice(100, 156), slice(100, 156))  # of the first mask, where the number stands
    assert len(colours(Image.fromarray(alone[middle]))) == 1
    assert PALETTE[0] in colours(Image.fromarray(np.asarray(both)[middle]))


def test_without_masks_the_image_does_not_change():
    picture = draw_overlay(grey_image(600, 400), np.zeros((0, 400, 600), dtype=bool))
    assert picture.size == (600, 400) and colours(picture) == {(GREY_VALUE,) * 3}


def test_the_given_image_is_not_painted_on():
    image = grey_image(600, 600)
    draw_overlay(image, np.ones((1, 600, 600), dtype=bool))
    assert colours(image) == {(GREY_VALUE,) * 3}


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1, 1), (512, 512)), ((64, 48), (512, 384)), ((300, 10), (600, 20)), ((2000, 1500), (2000, 1500))],
)
def test_small_images_are_enlarged_by_a_whole_factor_and_large_ones_are_not(size, expected):
    width, height = size
    assert draw_overlay(grey_image(width, height), np.ones((2, height, width), dtype=bool)).size == expected


def test_a_legend_shows_every_colour_under_the_picture():
    masks = np.stack([box_mask(0, 0, 9, 9), np.zeros((64, 64), dtype=bool), box_mask(30, 30, 60, 60)])
    picture = draw_overlay(grey_image(), masks, ["a", "empty", "a long label " * 20])
    assert picture.width == 512 and picture.height > 512
    legend = colours(picture.crop((0, 512, *picture.size)))
    assert set(PALETTE[:3]) <= legend and PALETTE[3] not in legend


def test_the_enlargement_is_the_factor_by_which_an_image_grows():
    for width, height in ((1, 1), (128, 96), (511, 2), (512, 2), (2000, 1500)):
        shown = draw_overlay(grey_image(width, height), np.zeros((0, height, width), dtype=bool))
        assert shown.width == overlay.enlargement(grey_image(width, height)) * width


def test_masks_of_another_size_and_missing_labels_are_refused():
    mask = box_mask(0, 0, 5, 5)[None]
    with pytest.raises(ValueError, match="masks: 1, labels: 2"):
        draw_overlay(grey_image(), mask, ["a", "b"])
    with pytest.raises(ValueError, match="masks: 1, labels: 2"):
        draw_answer(grey_image(), mask, "q", "a", ["one", "two"])
    with pytest.raises(ValueError, match=r"\(64, 32\)"):
        draw_overlay(grey_image(32, 64), mask)


@pytest.mark.parametrize("text", ["a few words " * 40, "word" * 200, "one\n\ntwo", "日本語 ελληνικά العربية 🙂" * 10])
def test_text_is_wrapped_within_its_width_and_nothing_is_lost(text):
    font_size, width = 16, 200
    lines = overlay._wrapped(text, font_size, width)
    assert max(ImageFont.load_default(font_size).getlength(line) for line in lines) <= width
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_the_caption_of_an_answer_has_a_white_border():
    image, mask = grey_image(), box_mask(8, 8, 30, 30)[None]
    short = draw_answer(image, mask, "the square", "Here it is.", ["square (0.90)"])
    long = draw_answer(image, mask, "the square " * 30, "Unbreakable" * 40, ["square (0.90)"])
    assert short.width == long.width == 512 and long.height > short.height > 512
    border = np.asarray(long)[512:, [0, 1, 2, -3, -2, -1]]
    assert (border == 255).all()
    assert PALETTE[0] in colours(short.crop((0, 512, *short.size)))


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1)])
def test_extreme_images_get_a_readable_caption(size):
    width, height = size
    picture = draw_answer(
        grey_image(width, height), np.ones((2, height, width), dtype=bool), "what?", "", ["this", "that"]
    )
    assert picture.width >= overlay.NARROWEST_CAPTION and picture.height > height


def test_a_refusal_has_no_mask_colour():
    picture = draw_answer(grey_image(), np.zeros((0, 64, 64), dtype=bool), "the star", "There is no star.", [])
    assert not set(PALETTE) & colours(picture)


def test_masks_are_painted_in_the_colours_of_a_given_palette():
    masks = np.zeros((2, 40, 40), dtype=bool)
    masks[0, 2:12, 2:12] = masks[1, 20:35, 20:35] = True
    painted = np.asarray(paint_masks(Image.new("RGB", (40, 40)), masks[:1], 255, 3, 8, palette=((1, 2, 3),)))
    assert (painted[5, 5] == (1, 2, 3)).all()
    both = np.asarray(paint_masks(Image.new("RGB", (40, 40)), masks, 255, 3, 8, palette=((1, 2, 3),)))
    assert (both[33, 33] == (1, 2, 3)).all()
