"""Outlines of ellipses, and boxes around rotated boxes."""

import numpy as np
import pytest

from gemma_lisa.datasets_builder.formats.coco_segmentation import segmentation_runs
from gemma_lisa.datasets_builder.formats.drawn_shapes import box_around, checked, ellipse
from gemma_lisa.datasets_builder.rows import decode_mask


def drawn(polygon, size):
    return decode_mask(segmentation_runs([polygon], size, ""), "").astype(bool)


@pytest.mark.parametrize("rotation", [0, 30, 90, 200, -45])
@pytest.mark.parametrize("radii", [(40, 20), (5, 5), (2, 45)])
def test_an_ellipse_covers_its_pixels(radii, rotation):
    size, center = (100, 120), (60, 50)
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    angle = np.radians(rotation)
    x, y = columns - center[0], rows - center[1]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    expected = (along / radii[0]) ** 2 + (across / radii[1]) ** 2 <= 1
    found = drawn(ellipse(center, radii, rotation, size), size)
    assert (found != expected).sum() <= 2 * sum(radii)


def test_an_ellipse_is_clipped_at_the_border():
    polygon = ellipse((0, 0), (30, 20), 0, (50, 60))
    assert min(polygon) == 0 and abs(drawn(polygon, (50, 60)).sum() - np.pi * 150) < 30
    assert min(ellipse((0, 0), (30, 20), 0, None)) == -30


def test_a_large_ellipse_has_few_points():
    assert len(ellipse((0, 0), (1e6, 1e6), 0, None)) == 2048 and len(ellipse((0, 0), (1, 1), 0, None)) == 48


@pytest.mark.parametrize("radii", [(0, 1), (1, -1)])
def test_radii_must_be_positive(radii):
    with pytest.raises(ValueError, match="radii of an ellipse must be positive"):
        ellipse((0, 0), radii, 0, None)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e10, True, None, "1", 10**400])
def test_coordinates_must_be_numbers(number):
    with pytest.raises(ValueError, match="must be a number of pixels"):
        checked(1, number)
    with pytest.raises(ValueError, match="must be a number of pixels"):
        ellipse((0, number), (1, 1), 0, None)


@pytest.mark.parametrize(
    ("rotation", "pivot", "expected"),
    [
        (0, (0, 0), (10, 20, 8, 4)),
        (360, (0, 0), (10, 20, 8, 4)),
        (90, (14, 22), (12, 18, 4, 8)),  # around its center
        (90, (10, 20), (6, 20, 4, 8)),  # clockwise around its top left corner
        (180, (10, 20), (2, 16, 8, 4)),
        (45, (14, 22), (14 - 6 / 2**0.5, 22 - 6 / 2**0.5, 12 / 2**0.5, 12 / 2**0.5)),
    ],
)
def test_a_box_surrounds_a_rotated_one(rotation, pivot, expected):
    assert box_around((10, 20), (8, 4), rotation, pivot) == pytest.approx(expected)
