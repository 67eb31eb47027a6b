"""All formats of COCO segmentations give the mask of pycocotools, and errors name invalid ones."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from gemma_lisa.datasets_builder.formats.coco_segmentation import segmentation_runs, turn, unite
from gemma_lisa.datasets_builder.rows import decode_mask, encode_mask

# raised inside pycocotools with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = (12, 20)
WHERE = "some.json: annotation 7"
SQUARE = [2, 2, 8, 2, 8, 8, 2, 8]
OTHER = [11.5, 3.2, 18.9, 3.2, 15, 10.7]


def mask_of(segmentation, size=SIZE):
    return decode_mask(segmentation_runs(segmentation, size, WHERE), WHERE)


def drawn_by_pycocotools(segmentation, size=SIZE):
    """Return the mask that the COCO API draws for an annotation."""
    coco = COCO()
    coco.imgs = {1: {"height": size[0], "width": size[1]}}
    return coco.annToMask({"image_id": 1, "segmentation": segmentation})


def listed(mask):
    """Return a mask as uncompressed counts in column order."""
    flat = np.concatenate([[0], mask.flatten(order="F"), [2]])
    ends = np.flatnonzero(np.diff(flat))
    runs = np.diff(ends, prepend=0)
    runs[-1] = mask.size - runs[:-1].sum()
    runs = runs[runs > 0].tolist()
    return [0, *runs] if mask.flatten(order="F")[0] else runs


@pytest.mark.parametrize(
    "segmentation",
    [
        [SQUARE],
        [SQUARE, OTHER],
        [SQUARE, [4, 4, 12, 4, 12, 12, 4, 12]],  # overlapping parts are merged
        [[2, 2, 10, 2, 10, 10, 2, 10, 2, 2, 4, 4, 4, 8, 8, 8, 8, 4, 4, 4]],  # a hole, cut open to its border
        [[2, 2, 10, 10, 10, 2, 2, 10]],  # self-intersecting
        [[0, 0, 20, 0, 20, 12, 0, 12]],
        [[-1.5, 3, 5, 3, 5, 13.9, -1.5, 13.9]],  # a little over the border
    ],
)
def test_polygons_are_filled_as_by_pycocotools(segmentation):
    expected = drawn_by_pycocotools(segmentation)
    assert expected.any()
    np.testing.assert_array_equal(mask_of(segmentation), expected)


@pytest.mark.parametrize("seed", range(5))
def test_uncompressed_and_compressed_rle_give_the_mask(seed):
    mask = (np.random.default_rng(seed).random(SIZE) < (0.0, 1.1, 0.5, 0.1, 0.9)[seed]).astype(np.uint8)
    compressed, counts = encode_mask(mask), listed(mask)
    assert sum(counts) == mask.size
    for segmentation in (compressed, {"size": list(SIZE), "counts": counts}, [compressed]):
        np.testing.assert_array_equal(mask_of(segmentation), mask)


def test_rle_and_polygons_of_one_object_are_merged():
    box = np.zeros(SIZE, np.uint8)
    box[9:11, 1:4] = 1
    expected = drawn_by_pycocotools([SQUARE]) | box
    np.testing.assert_array_equal(mask_of([SQUARE, encode_mask(box)]), expected)
    united = unite([segmentation_runs([SQUARE], SIZE, WHERE), segmentation_runs(encode_mask(box), SIZE, WHERE)])
    np.testing.assert_array_equal(coco_mask.decode(united), expected)


def test_runs_of_length_zero_do_not_truncate_a_merged_mask():
    counts = [10, 0, 0, 20, 0, 0, 210]
    mask = mask_of({"size": list(SIZE), "counts": counts})
    assert mask.sum() == 20
    one = segmentation_runs({"size": list(SIZE), "counts": counts}, SIZE, WHERE)
    other = segmentation_runs({"size": list(SIZE), "counts": [10, 0, 0, 0, 200, 30]}, SIZE, WHERE)
    assert coco_mask.area(unite([one, other])) == 50


@pytest.mark.parametrize("method", list(Image.Transpose))
def test_masks_are_rotated_with_their_image(method):
    mask = np.random.default_rng(0).random(SIZE) < 0.5
    turned = turn(segmentation_runs(encode_mask(mask), SIZE, WHERE), method)
    expected = np.asarray(Image.fromarray(mask.astype(np.uint8)).transpose(method))
    np.testing.assert_array_equal(coco_mask.decode(turned), expected)


WHOLE = encode_mask(np.ones(SIZE))


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        (None, "no segmentation"),
        ([], "no segmentation"),
        ([[]], "got 0 numbers"),
        ([[1, 1, 5, 5]], "got 4 numbers"),
        ([[1, 1, 5, 1, 5, 5, 1]], "got 7 numbers"),
        ([[[1, 1], [5, 1], [5, 5]]], "must be a list of numbers"),
        ([["one", 1, 5, 1, 5, 5]], "must be a list of numbers"),
        ([[{}, 1, 5, 1, 5, 5]], "must be a list of numbers"),
        ([[10**400, 1, 5, 1, 5, 5]], "must be a list of numbers"),
        ([1, 1, 5, 1, 5, 5], "must be polygons"),
        ("polygon", "must be polygons"),
        ([[float("nan"), 1, 5, 1, 5, 5]], "not a finite number"),
        ([[float("inf"), 1, 5, 1, 5, 5]], "not a finite number"),
        ([[None, 1, 5, 1, 5, 5]], "not a finite number"),
        ([[0, 0, 22.5, 0, 22.5, 12]], "from x 0 to 22.5 and from y 0 to 12, but its image is 20 x 12"),
        ([[-3, 0, 5, 0, 5, 5]], "x -3 to 5"),
        ([[0, 0, 12, 0, 12, 20]], "y 0 to 20"),
        ([[0, -2.5, 12, 0, 12, 3]], "y -2.5 to 3"),
        ({}, "must be polygons"),
        ({"size": list(SIZE)}, "must be polygons"),
        ({**WHOLE, "size": [20, 12]}, "[20, 12] (height, width), but its image is [12, 20]"),
        ({**WHOLE, "size": None}, "None (height, width)"),
        ({**WHOLE, "counts": WHOLE["counts"] + "1"}, "invalid RLE"),
        ({**WHOLE, "counts": ""}, "invalid RLE"),
        ({**WHOLE, "counts": 240}, "invalid RLE"),
        ({"size": list(SIZE), "counts": [100, 139]}, "cover 239 pixels, not the 240"),
        ({"size": list(SIZE), "counts": [250, -10]}, "not a run length"),
        ({"size": list(SIZE), "counts": [120.5, 119.5]}, "not a run length"),
        ({"size": list(SIZE), "counts": []}, "empty"),
        ({"size": list(SIZE), "counts": [2**31 - 1] * 2**20}, "cover 225179981"),
        ({"size": [10**400, 1], "counts": "1"}, "an integer of 1,329 bits"),
        ({"size": [1] * 10**6, "counts": "1"}, "[1, 1, 1, 1, 1, 1, ...] (height, width)"),
        ([[0, 0, 19, 11] * 110_000], "have more than 4,000,000 pixels"),
        ([[0, 0, 19, 11] * 1_000 for _ in range(110)], "have more than 4,000,000 pixels"),
    ],
)
def test_invalid_segmentations_are_refused_by_name(segmentation, words):
    with pytest.raises(ValueError) as refusal:
        segmentation_runs(segmentation, SIZE, WHERE)
    message = str(refusal.value)
    assert message.startswith(WHERE) and words in message and "\n" not in message, message


@pytest.mark.parametrize("size", [(30_000, 30_000), (10**400, 10**400), (2**31, 1), (2**62, 2**62)])
def test_a_declared_size_above_the_limit_is_refused_before_the_mask_is_allocated(size):
    for segmentation in ([[0, 0, 9, 0, 9, 9]], {"size": list(size), "counts": [7]}):
        with pytest.raises(
            ValueError, match="a.json: annotation 1: the size of its image is .* more than the"
        ) as refused:
            segmentation_runs(segmentation, size, "a.json: annotation 1")
        assert len(str(refused.value)) < 500
