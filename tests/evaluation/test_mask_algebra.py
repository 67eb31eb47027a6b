"""RLE algebra equals that of arrays; boundary IoU equals the definition, pixel by pixel."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged_drawings import pixels, rle
from pycocotools import mask as coco_mask

from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.evaluation.mask_algebra import (
    area,
    boundary_iou,
    checked,
    empty,
    intersect,
    pairwise_iou,
    subtract,
    unite,
)

masks = st.builds(
    lambda seed, share: np.random.default_rng(seed).random((9, 13)) < share,
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]),
)


@given(masks, masks)
def test_the_algebra_of_rle_equals_that_of_arrays(one, other):
    a, b = encode_mask(one), encode_mask(other)
    for found, expected in (
        (intersect(a, b), one & other),
        (unite([a, b], one.shape), one | other),
        (subtract(a, b), one & ~other),
    ):
        assert (coco_mask.decode(found) == expected).all() and area(found) == expected.sum()
        assert checked(found, one.shape, "row") == found
    union = (one | other).sum()
    assert pairwise_iou([a], [b])[0, 0] == pytest.approx((one & other).sum() / union if union else 0)


def test_the_union_of_no_masks_is_empty():
    assert unite([], (2, 3)) == empty((2, 3)) and area(empty((2, 3))) == 0
    assert pairwise_iou([], [rle("1.")]).shape == (0, 1)


def boundary_by_definition(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask that have background or the image's border within the distance of Cheng et al."""
    distance = max(1, round(0.02 * math.hypot(*mask.shape)))
    padded = np.pad(mask, distance)
    height, width = mask.shape
    inner = np.ones_like(mask)
    for down in range(2 * distance + 1):
        for right in range(2 * distance + 1):
            inner &= padded[down : down + height, right : right + width]
    return mask & ~inner


def blob(generator: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    center, radius = generator.uniform(0, size), generator.uniform(2, max(size))
    ys, xs = np.ogrid[: size[0], : size[1]]
    return np.hypot(ys - center[0], xs - center[1]) < radius * (1 + 0.3 * np.sin(5 * np.arctan2(ys - 9, xs - 9)))


@pytest.mark.parametrize("size", [(90, 120), (40, 200), (7, 5)])
def test_the_boundary_iou_equals_its_definition(size):
    generator = np.random.default_rng(size[0])
    for _ in range(12):
        one, other, ignored = (blob(generator, size) for _ in range(3))
        for counted, given_ignored in ((np.ones(size, bool), None), (~ignored, encode_mask(ignored))):
            bands = [boundary_by_definition(mask) & counted for mask in (one, other)]
            union = (bands[0] | bands[1]).sum()
            expected = (bands[0] & bands[1]).sum() / union if union else 1.0
            if not one.any() or not other.any():
                expected = float(one.any() == other.any())
            found = boundary_iou(encode_mask(one), encode_mask(other), given_ignored)
            assert found == pytest.approx(expected)


def test_the_boundary_of_a_drawn_square():
    # d = 1 pixel. Boundary of the 4 x 4 square: 12 pixels, of the 3 x 3 square in its corner: 8.
    # Both contain the 3 + 2 pixels on the top and left side of the small one; its other 3 are (1, 2), (2, 1), (2, 2).
    # Of these, none is on the boundary of the large square: 5 in both, 12 + 8 - 5 = 15 in either.
    large, small = rle("1111. 1111. 1111. 1111. ....."), rle("111.. 111.. 111.. ..... .....")
    assert boundary_iou(large, small) == pytest.approx(5 / 15)
    assert boundary_iou(small, small) == 1.0
    assert boundary_iou(rle("..... ....."), rle("..... .....")) == 1.0
    assert boundary_iou(rle("1.... ....."), rle("..... .....")) == 0.0


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ({"size": [4, 4], "counts": "0"}, "cover"),
        ({"size": [4, 4], "counts": ""}, "empty"),
        ({"size": [4, 4], "counts": "o" * 40}, "invalid mask RLE"),
        ({"size": [5, 4], "counts": "0"}, r"size \[5, 4\]"),
    ],
)
def test_invalid_masks_are_refused_before_c_code_reads_them(mask, words):
    with pytest.raises(ValueError, match=f"^row#0: .*{words}") as caught:
        checked(mask, (4, 4), "row#0")
    assert "\n" not in str(caught.value)


def test_a_drawing_is_what_it_shows():
    assert pixels("1. .1").tolist() == [[True, False], [False, True]]


def test_a_boundary_that_is_ignored_is_empty():
    everything, nothing = encode_mask(np.ones((4, 4), np.uint8)), encode_mask(np.zeros((4, 4), np.uint8))
    assert boundary_iou(everything, nothing) == 0.0
    assert boundary_iou(everything, nothing, everything) == 1.0
