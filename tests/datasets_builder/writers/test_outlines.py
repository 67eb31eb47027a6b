"""Polygons of masks: exact, with holes and parts."""

import numpy as np
import pytest
from drawn_masks import filled, masks

from gemma_lisa.datasets_builder.formats.coco_segmentation import segmentation_runs
from gemma_lisa.datasets_builder.rows import decode_mask
from gemma_lisa.datasets_builder.writers.outlines import joined, outlines, simplified

MASKS = masks()


def read(polygons, shape):
    parts = [np.asarray(polygon, dtype=float).ravel().tolist() for polygon in polygons]
    return decode_mask(segmentation_runs(parts, shape, "here"), "here") > 0


@pytest.mark.parametrize("name", MASKS)
def test_polygons_are_filled_to_exactly_the_mask(name):
    mask = MASKS[name]
    polygons = outlines(mask)
    assert (read(polygons, mask.shape) == mask).all()
    assert (filled(polygons, mask.shape) == mask).all()


@pytest.mark.parametrize("name", MASKS)
def test_one_joined_polygon_in_rounded_fractions_is_filled_to_exactly_the_mask(name):
    mask = MASKS[name]
    size = np.array(mask.shape[::-1])
    polygon = np.round(joined(outlines(mask)) / size, 6) * size
    assert (read([polygon], mask.shape) == mask).all()


def test_random_masks_are_filled_to_exactly_the_same_masks():
    rng = np.random.default_rng(1)
    for _ in range(60):
        small = rng.random(rng.integers(1, 20, size=2)) < rng.random()
        mask = np.kron(small, np.ones(rng.integers(1, 4, size=2))) > 0
        assert not mask.any() or (read(outlines(mask), mask.shape) == mask).all()
        assert not mask.any() or (read([joined(outlines(mask))], mask.shape) == mask).all()


def test_an_empty_mask_has_no_polygon():
    assert outlines(np.zeros((3, 4), bool)) == []


def test_a_pixel_is_a_square_at_its_corners():
    mask = np.zeros((5, 6), bool)
    mask[2, 3] = True
    (square,) = outlines(mask)
    assert sorted(square.tolist()) == [[3, 2], [3, 3], [4, 2], [4, 3]]


def test_a_polygon_has_no_points_between_its_corners_and_the_largest_part_is_first():
    small, large = outlines(MASKS["parts"])[-1], outlines(MASKS["parts"])[0]
    assert len(small) == len(large) == 4
    assert np.ptp(large[:, 0]) == 20 and np.ptp(small[:, 0]) == 1


def test_a_ring_is_joined_at_the_nearest_point_by_a_bridge_and_back():
    outer = np.array([[0, 0], [10, 0], [10, 10], [0, 10]])
    inner = np.array([[8, 1], [9, 1], [9, 2]])
    expected = [[0, 0], [10, 0], [9, 1], [9, 2], [8, 1], [9, 1], [10, 0], [10, 10], [0, 10]]
    assert joined([outer, inner]).tolist() == expected


def test_a_bridge_can_begin_at_another_hole():
    outer = np.array([[0, 0], [90, 0], [90, 90], [0, 90]])
    first, second = np.array([[40, 40], [45, 40], [45, 45]]), np.array([[47, 40], [50, 40], [50, 44]])
    polygon = joined([outer, first, second]).tolist()
    assert polygon[polygon.index([47, 40]) - 1] == [45, 40]
    whole = filled([np.array(polygon)], (90, 90))
    assert (whole == ~(filled([first], (90, 90)) | filled([second], (90, 90)))).all()


def test_with_a_tolerance_polygons_have_fewer_points_and_nearly_the_same_mask():
    rows, columns = np.mgrid[:300, :400]
    mask = ((columns - 200) ** 2 + (rows - 150) ** 2 < 120**2) & ((columns - 220) ** 2 + (rows - 150) ** 2 > 30**2)
    (exact,), (simple,) = outlines(mask), outlines(mask, 0.5)
    found = read([simple], mask.shape)
    assert (found & mask).sum() / (found | mask).sum() > 0.998
    assert len(simple) < len(exact) / 2
    distances = np.hypot(*(simple[:, None] - exact).transpose(2, 0, 1)).min(axis=1)
    assert distances.max() <= np.hypot(0.5, 0.5)


@pytest.mark.parametrize("name", MASKS)
def test_with_a_large_tolerance_no_part_disappears(name):
    mask = MASKS[name]
    polygons = outlines(mask, 5.0)
    assert len(polygons) == len(outlines(mask)) and all(read([polygon], mask.shape).any() for polygon in polygons)


def test_points_nearer_than_the_tolerance_are_removed():
    ring = np.array([[0, 0], [5, 0.4], [10, 0], [10, 10], [5, 8], [0, 10]], dtype=float)
    assert simplified(ring, 0.5).tolist() == [[0, 0], [10, 0], [10, 10], [5, 8], [0, 10]]
