"""The outlines of ellipses and rotated boxes, as polygons [x, y, x, y, ...]."""

import math

import numpy as np

LARGEST = 2**31  # pixels: a larger number is damaged
CLOSE = 0.1  # pixels between an ellipse and its polygon
FEWEST_POINTS, MOST_POINTS = 24, 1024


def ellipse(
    center: tuple[float, float],
    radii: tuple[float, float],
    rotation: float,
    size: tuple[int, int] | None,
) -> list[float]:
    """Return an ellipse as a polygon.

    Args:
        center: (x, y) in pixels.
        radii: along the x axis and the y axis, before the rotation.
        rotation: in degrees, clockwise in an image whose y axis points down.
        size: (height, width) in pixels of the image, at whose border the polygon is clipped; None: it is not clipped.

    Raises:
        ValueError: a number is not finite or too large, or a radius is not positive.
    """
    checked(*center, *radii, rotation)
    if min(radii) <= 0:
        raise ValueError(f"the radii of an ellipse must be positive, got {radii[0]:g} and {radii[1]:g}")
    num_points = 4 * math.ceil(math.pi * math.sqrt(max(radii) / (2 * CLOSE)) / 4)
    angles = np.linspace(0, 2 * np.pi, min(max(num_points, FEWEST_POINTS), MOST_POINTS), endpoint=False)
    points = np.stack([np.cos(angles) * radii[0], np.sin(angles) * radii[1]], axis=1)
    points = points @ _rotation(rotation) + center
    if size is not None:
        points = points.clip(0, size[::-1])  # the points are dense, so each moved one stays on the border
    return points.ravel().tolist()


def box_around(
    corner: tuple[float, float], sides: tuple[float, float], rotation: float, pivot: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Return the upright box (x, y, width, height) around a rotated one.

    Args:
        corner: (x, y) of the top left corner before the rotation, in pixels.
        sides: width and height.
        rotation: in degrees, clockwise in an image whose y axis points down.
        pivot: (x, y), the center of the rotation.

    Raises:
        ValueError: a number is not finite or too large.
    """
    checked(*corner, *sides, rotation, *pivot)
    points = np.array(corner) + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * sides
    if rotation % 360:
        points = (points - pivot) @ _rotation(rotation) + pivot
    low, high = points.min(axis=0), points.max(axis=0)
    return (*low.tolist(), *(high - low).tolist())


def checked(*numbers: float) -> None:
    """Raise ValueError for a number that is not finite or too large."""
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) < LARGEST:
            raise ValueError(f"a coordinate must be a number of pixels, got {number!r:.40}")


def _rotation(degrees: float) -> np.ndarray:
    """Return the matrix (2, 2) that rotates rows (x, y), clockwise in an image whose y axis points down."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, sin], [-sin, cos]])
