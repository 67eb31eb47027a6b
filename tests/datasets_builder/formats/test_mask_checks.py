"""Masks are compared with box and area, and RLE in row order or with all of the border is recognized."""

from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from gemma_lisa.datasets_builder.formats.annotated import AnnotatedImage, AnnotatedObject, Notes
from gemma_lisa.datasets_builder.formats.frames import Frame
from gemma_lisa.datasets_builder.formats.mask_checks import ROW_ORDER, WHOLE_BORDER, ObjectMask, check_masks
from gemma_lisa.datasets_builder.rows import encode_mask


def thing(left, top, right, bottom, size=(60, 90)):
    mask = np.zeros(size, np.uint8)
    mask[top:bottom, left:right] = 1
    mask[top : top + 5, left : left + 4] = 0
    return mask


def in_row_order(mask):
    """Return the RLE of a program that reads the pixels row by row but states the size as COCO does."""
    return {**encode_mask(mask.flatten().reshape(mask.shape[::-1]).T), "size": list(mask.shape)}


def checked(rle, **stated):
    """Return the object after the check, its errors, and the kinds of notes."""
    one = ObjectMask(AnnotatedObject("mug", "object 1", rle, **stated), rle)
    notes, errors = Notes(), []
    image = AnnotatedImage(Path("1.png"), "1.png", "1.png", list, tuple(rle["size"]))
    check_masks([one], image, Frame(tuple(rle["size"])), notes, errors.append)
    return one, list(map(str, errors)), list(notes.cases)


def test_row_order_is_an_error_also_without_a_box():
    one, [error], notes = checked(in_row_order(thing(20, 15, 50, 45)))
    assert one.is_bad and one.mask is None and not notes
    assert error.startswith("object 1: its RLE is in row order, but COCO needs column order; encode the pixels")
    _, [error], _ = checked(in_row_order(thing(20, 15, 50, 45)), box=[20, 15, 30, 30], area=880)
    assert "row order" in error


def test_row_order_is_a_remark_if_the_sides_are_alike_or_box_and_area_agree():
    assert checked(in_row_order(thing(20, 15, 50, 45, (60, 66))))[1:] == ([], [ROW_ORDER])
    rle = in_row_order(thing(20, 15, 50, 45))
    own_box = coco_mask.toBbox(rle).tolist()
    assert checked(rle, box=own_box, area=880)[1:] == ([], [ROW_ORDER])


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (48, 64), (60, 60), (54, 96)])
def test_column_order_of_many_shapes_is_accepted(size):
    rows, columns = np.mgrid[: size[0], : size[1]]
    shapes = [
        (rows - size[0] / 2) ** 2 + (columns - size[1] / 2) ** 2 < (min(size) / 3) ** 2,
        np.abs(rows - size[0] // 2) < 2,
        np.abs(columns - size[1] // 2) < 2,
        np.abs(rows * size[1] - columns * size[0]) < 3 * max(size),
        (rows > size[0] * 0.6),
        (columns // 5 + rows // 5) % 2 == 0,
    ]
    for shape in shapes:
        _, errors, notes = checked(encode_mask(shape.astype(np.uint8)))
        assert not errors and not notes


def test_a_mask_with_the_whole_border_is_counted():
    inverted = 1 - thing(20, 15, 50, 45)
    assert checked(encode_mask(inverted))[1:] == ([], [WHOLE_BORDER])
    assert checked(encode_mask(inverted), box=[0, 0, 90, 60], area=int(inverted.sum()))[1:] == ([], [WHOLE_BORDER])
    inverted[30, -1] = 0
    assert checked(encode_mask(inverted))[1:] == ([], [])


@pytest.mark.parametrize(
    "stated", [{"box": [10**400, 1, 1, 1]}, {"area": 10**400}, {"box": [1, 2], "area": -(10**400)}]
)
def test_numbers_without_a_limit_are_not_compared(stated):
    one, errors, notes = checked(encode_mask(thing(20, 15, 50, 45)), **stated)
    assert not errors and not notes and not one.is_bad
