"""The masks of annotated objects: holes, boxes, crowds, and checks against what files state."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.formats.annotated import AnnotatedImage, AnnotatedObject, Notes, loaded
from gemma_lisa.datasets_builder.formats.frames import Frame
from gemma_lisa.datasets_builder.formats.json_files import refuse
from gemma_lisa.datasets_builder.formats.object_masks import (
    AS_CROWD,
    BOX_OF_OUTLINE,
    CAN_BE_HOLE,
    CORNERS,
    object_masks,
)
from gemma_lisa.datasets_builder.rows import decode_mask, encode_mask

# raised inside pycocotools with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIZE = (30, 40)


def box(left, top, right, bottom):
    return [left, top, right, top, right, bottom, left, bottom]


def area(*boxes, value=1):
    mask = np.zeros(SIZE, np.uint8)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = value
    return mask


def drawn(*objects, frame=Frame(SIZE), crowds="ignore", tolerate=refuse):  # noqa: B008
    """Return the objects with decoded masks, and the kinds of notes with their counts."""
    image, notes = AnnotatedImage(Path("1.png"), "1.png", "1.png", loaded(objects), SIZE), Notes()
    found = object_masks(image, frame, crowds, notes, tolerate)
    masks = [(None if one.mask is None else decode_mask(one.mask, "")) for one in found]
    ignored = [(None if one.ignore is None else decode_mask(one.ignore, "")) for one in found]
    return masks, ignored, {kind: len(cases) for kind, cases in notes.cases.items()}


def thing(segmentation, name="mug", **more):
    return AnnotatedObject(name, "object 1", segmentation, **more)


OUTER, INNER, ISLAND = (4, 4, 24, 24), (8, 8, 20, 20), (12, 12, 16, 16)


def test_a_polygon_inside_another_one_is_a_hole_and_one_in_the_hole_an_island():
    [mask], _, notes = drawn(thing([box(*ISLAND), box(*OUTER), box(*INNER), box(30, 2, 34, 6)]))
    expected = area(OUTER, (30, 2, 34, 6)) - area(INNER) + area(ISLAND)
    np.testing.assert_array_equal(mask, expected)
    assert notes == {"objects with a polygon inside another one, which was cut out as a hole": 1}


def test_the_stated_area_decides_whether_an_inner_polygon_is_filled():
    filled, cut = 400, 400 - 144
    [mask], _, notes = drawn(thing([box(*OUTER), box(*INNER)], area=filled))
    assert mask.sum() == filled and list(notes) == [
        "objects with a polygon inside another one, filled as their area states"
    ]
    [mask], _, _ = drawn(thing([box(*OUTER), box(*INNER)], area=cut))
    assert mask.sum() == cut
    [mask], _, _ = drawn(thing([box(*OUTER), box(*INNER)], box=[4, 4, 20, 20], area=400))  # the area of the box
    assert mask.sum() == cut


@pytest.mark.parametrize("other", [box(*OUTER), box(6, 4, 28, 24), box(24, 4, 30, 10)])
def test_equal_overlapping_and_touching_polygons_are_united(other):
    [mask], _, notes = drawn(thing([box(*OUTER), other]))
    np.testing.assert_array_equal(mask, area(OUTER) | area((other[0], other[1], other[4], other[5])))
    assert not notes


def test_stated_holes_are_cut_out():
    [mask], _, notes = drawn(thing([box(*OUTER)], holes=[box(*INNER)]))
    np.testing.assert_array_equal(mask, area(OUTER) - area(INNER))
    assert not notes


def test_a_region_named_background_is_a_hole_and_never_an_object():
    masks, _, notes = drawn(thing([box(*OUTER)]), thing([box(*INNER)], "_background_"), thing([box(28, 2, 38, 12)]))
    np.testing.assert_array_equal(masks[0], area(OUTER) - area(INNER))
    np.testing.assert_array_equal(masks[1], area((28, 2, 38, 12)))
    assert len(masks) == 2 and notes == {"regions named background, cut out as holes": 1}
    masks, _, notes = drawn(thing([box(*INNER)]), thing([box(0, 0, 40, 30)], "Background"))
    assert masks[0].sum() == 144 and notes == {"skipped regions named background": 1}


@pytest.mark.parametrize("scrap", [[], [3, 3], [3, 3, 9, 9]])
def test_parts_of_fewer_than_three_points_are_skipped(scrap):
    [mask], _, notes = drawn(thing([scrap, box(*INNER)]))
    np.testing.assert_array_equal(mask, area(INNER))
    assert notes == {"skipped parts of fewer than 3 points": 1}


def test_an_object_without_an_outline_is_an_ignore_region_of_its_box_or_nothing():
    masks, ignored, notes = drawn(
        thing([], box=[4, 4, 20, 20]), thing(None, box=[0, 0, 0, 0]), thing([]), thing([], box=[1, 1, 5, 5], area=0)
    )
    assert masks == [None] * 4 and ignored[1:] == [None] * 3
    np.testing.assert_array_equal(ignored[0], area(OUTER))
    assert notes == {"objects with a box only, read as ignore regions": 1, "skipped objects without any pixel": 3}


def test_the_box_of_an_outlined_object_of_its_class_is_skipped():
    boxes = [thing([], box=[4, 4, 21, 20]), thing([], box=[26, 4, 8, 8]), thing([], "plate", box=[4, 4, 20, 20])]
    _, ignored, notes = drawn(thing([box(*OUTER)]), *boxes)
    assert [one is None for one in ignored] == [True, True, False, False]
    assert notes[BOX_OF_OUTLINE] == 1


def test_crowds_are_counted_ignore_regions_or_things():
    crowd = thing(encode_mask(area(INNER)), crowd=True)
    [mask], [ignored], notes = drawn(crowd)
    assert mask is None and list(notes) == [AS_CROWD]
    np.testing.assert_array_equal(ignored, area(INNER))
    [mask], [ignored], notes = drawn(crowd, crowds="things")
    np.testing.assert_array_equal(mask, area(INNER))
    assert ignored is None and not notes


def row_major(mask):
    return encode_mask(mask.T.reshape(mask.shape))


@pytest.mark.parametrize(
    ("segmentation", "stated"),
    [
        (row_major(area(OUTER)), {"box": [4, 4, 20, 20], "area": 400}),  # counts in row order
        (encode_mask(1 - area(INNER)), {"box": [8, 8, 12, 12], "area": 144}),  # starts with the wrong value
        (encode_mask(1 - area((0, 0, 1, 1), (39, 29, 40, 30), (2, 2, 9, 9))), {"area": 51}),
        ([box(4, 8, 5, 10)], {"box": [16, 24, 4, 6]}),  # percent of the image
        ([box(2, 14, 8, 26)], {"box": [14, 2, 12, 6]}),  # x and y exchanged
    ],
)
def test_a_mask_of_another_region_than_its_box_is_an_error(segmentation, stated):
    errors = []
    masks, ignored, _ = drawn(thing(segmentation, **stated), thing([box(*INNER)]), tolerate=errors.append)
    assert masks[0] is None and ignored[0] is None and masks[1].sum() == 144
    assert len(errors) == 1 and "object 1: its mask" in str(errors[0]) and "\n" not in str(errors[0])


@pytest.mark.parametrize(
    "stated",
    [
        {"box": [3.4, 4.2, 20.9, 19.7], "area": 405.5},
        {"box": [4, 4, 24, 24]},  # both corners
        {"box": [4, 4, 20, 20], "area": 400},
        {"box": [0, 0, 0, 0], "area": 0},
        {"box": "4 4 20 20"},
        {"box": [4, 4, 20]},
        {"box": [None, 4, 20, 20]},
    ],
)
def test_a_box_and_an_area_that_agree_or_state_nothing_are_no_remark(stated):
    [mask], _, notes = drawn(thing([box(*OUTER)], **stated))
    assert mask.sum() == 400 and not notes


def test_the_area_of_the_box_is_no_disagreement():
    triangle = [4, 4, 24, 4, 4, 24]
    _, _, notes = drawn(thing([triangle], box=[4, 4, 20, 20], area=400))
    assert not notes


def test_smaller_disagreements_are_counted():
    _, _, notes = drawn(thing([box(*OUTER)], box=[4, 4, 28, 20]))
    assert notes == {"objects whose mask differs from their bbox": 1}
    _, _, notes = drawn(thing([box(*OUTER)], area=100))
    assert notes == {"objects whose mask differs from their area": 1}


def test_one_bad_object_leaves_the_others():
    errors = []
    far = thing([box(0, 0, 400, 300)])
    masks, _, _ = drawn(far, thing([box(*INNER)]), thing([[1, 2, 3, "x", 5, 6]]), tolerate=errors.append)
    assert masks[0] is None and masks[2] is None and masks[1].sum() == 144 and len(errors) == 2
    errors.clear()
    drawn(thing(None, error=ValueError("line 3 is wrong")), tolerate=errors.append)
    assert [str(error) for error in errors] == ["line 3 is wrong"]


def test_masks_are_turned_upright_and_fractions_scaled():
    frame = Frame(SIZE, None, Image.Transpose.ROTATE_270)
    [mask], _, _ = drawn(thing([box(*OUTER)]), frame=frame)
    np.testing.assert_array_equal(mask, np.rot90(area(OUTER), -1))
    fractions = [0.1, 4 / 30, 0.6, 4 / 30, 0.6, 0.8, 0.1, 0.8]
    [mask], _, notes = drawn(thing([fractions], box=[0.1, 4 / 30, 0.5, 20 / 30]), frame=Frame(SIZE, SIZE[::-1]))
    np.testing.assert_array_equal(mask, area(OUTER))
    assert not notes
    with pytest.raises(ValueError, match="object 1: coordinates must be fractions from 0 to 1, got 24"):
        drawn(thing([box(*OUTER)]), frame=Frame(SIZE, SIZE[::-1]))


@pytest.mark.parametrize("name", ["BG", "_background_", "Back_Ground"])
def test_all_spellings_of_the_background_are_holes(name):
    [mask], _, notes = drawn(thing([box(*OUTER)]), thing([box(*INNER)], name))
    np.testing.assert_array_equal(mask, area(OUTER) - area(INNER))
    assert notes == {"regions named background, cut out as holes": 1}


def test_an_object_named_hole_in_another_one_is_counted():
    masks, _, notes = drawn(thing([box(*OUTER)]), thing([box(*INNER)], "hole"), thing([box(30, 2, 34, 6)], "hole"))
    assert [mask.sum() for mask in masks] == [400, 144, 16] and notes == {CAN_BE_HOLE: 1}


def test_a_list_of_points_is_an_error_that_says_how_to_write_it():
    with pytest.raises(ValueError, match=r"object 1: its segmentation is a list of points \[x, y\]; write one polygon"):
        drawn(thing([[4, 4], [24, 4], [24, 24]]))


def test_a_box_that_reaches_beyond_the_photo_can_be_two_corners():
    _, [ignored], notes = drawn(thing(None, box=(20, 15, 38, 28)))
    np.testing.assert_array_equal(ignored, area((20, 15, 38, 28)))
    assert CORNERS in notes
    _, [ignored], notes = drawn(thing(None, box=(20, 15, 10, 28)))
    np.testing.assert_array_equal(ignored, area((20, 15, 30, 30)))
    assert CORNERS not in notes
