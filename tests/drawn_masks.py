"""Masks that are hard to write as polygons, and a fill of polygons that does not use pycocotools."""

import numpy as np

SHAPE = (40, 56)


def masks() -> dict[str, np.ndarray]:
    """Return masks (H, W) bool by name. Each has at least one pixel."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    circle = (columns - 27) ** 2 + (rows - 19) ** 2 < 14**2
    hole = (columns - 30) ** 2 + (rows - 20) ** 2 < 5**2
    point = np.zeros(SHAPE, bool)
    point[7, 11] = True
    parts = np.zeros(SHAPE, bool)
    parts[3:8, 4:9] = parts[20:36, 30:50] = parts[30, 2] = True
    diagonal = np.zeros(SHAPE, bool)
    diagonal[4:9, 4:9] = diagonal[9:14, 9:14] = True
    border = np.zeros(SHAPE, bool)
    border[:, :3] = border[-1, :] = border[:5, -7:] = True
    holes = circle & ~hole
    holes[12:15, 20:23] = holes[9, 27] = False
    island = circle & ~((columns - 27) ** 2 + (rows - 19) ** 2 < 9**2)
    island |= (columns - 27) ** 2 + (rows - 19) ** 2 < 4**2
    noise = np.random.default_rng(0).random(SHAPE) < 0.5
    return {
        "circle": circle,
        "holes": holes,
        "island in a hole": island,
        "one pixel": point,
        "parts": parts,
        "parts that touch at a corner": diagonal,
        "along the border": border,
        "whole photo": np.ones(SHAPE, bool),
        "noise": noise,
    }


def filled(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Return the pixels (H, W) bool whose centers are inside of polygons (P, 2), by the even-odd rule."""
    inside = np.zeros(shape, bool)
    y, x = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    for polygon in polygons:
        for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if y1 != y2:
                crossed = (y > min(y1, y2)) & (y < max(y1, y2))
                at = x1 + (y - y1) / (y2 - y1) * (x2 - x1)
                inside ^= crossed[:, None] & (x > at[:, None])
    return inside
