"""Polygons of masks.

By default, pycocotools fills them to exactly the same mask. It reads all polygons of this project.
"""

import contourpy
import numpy as np

LOOK_BACK = 20_000  # points among which a bridge searches the nearest; only noise has more
MIN_AREA = 0.75  # of a polygon with fewer points, as part of the area of the exact one
_END = -1


def outlines(mask: np.ndarray, tolerance: float = 0.0) -> list[np.ndarray]:
    """Return a polygon (P, 2) of each connected part of a mask, the largest first.

    Points are (x, y) in pixels from the top left corner of the image. Holes are joined to the outer ring, see `joined`.

    Args:
        mask: (H, W) bool or 0/1.
        tolerance: maximum distance in pixels of a polygon from the outline; above 0, it has fewer points. With 0, it
            follows the edges of pixels, and its points are corners of pixels, int64.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    # Only the bounding box is searched: most masks are small and photos are large
    padded = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype(np.float32)
    generator = contourpy.contour_generator(z=padded, fill_type=contourpy.FillType.OuterOffset)
    parts = []
    for points, offsets in zip(*generator.filled(0.5, 2.0), strict=True):
        rings = [_ring(points[start : end - 1], tolerance) for start, end in zip(offsets, offsets[1:], strict=False)]
        parts.append((_area(rings[0]), joined(rings) + (left, top)))
    parts.sort(key=lambda part: part[0], reverse=True)
    return [polygon for _, polygon in parts]


def joined(rings: list[np.ndarray]) -> np.ndarray:
    """Return one polygon (P, 2) of several rings: holes of the first one, or other parts.

    A bridge of width 0 leads from a near point of an earlier ring to each further ring and back. Even-odd filling, as
    in pycocotools, ignores bridges.
    """
    points = np.concatenate(rings)
    starts = np.cumsum([0, *map(len, rings)]).tolist()
    # A linked list of points: `following` has the next entry, `shown` the index of the point
    following, shown = list(range(1, len(points) + 1)), list(range(len(points)))
    following[starts[1] - 1] = _END
    for start, end in zip(starts[1:], starts[2:], strict=False):
        earlier = points[max(0, start - LOOK_BACK) : start]
        entry = _nearest(points[start:end], earlier[_nearest(earlier, points[start])])
        points[start:end] = np.roll(points[start:end], -entry, axis=0)
        near = start - len(earlier) + _nearest(earlier, points[start])
        # near -> ring -> its first point again -> near again -> what followed near
        following[end - 1] = len(shown)
        following += [len(shown) + 1, following[near]]
        shown += [start, near]
        following[near] = start
    order, at = [], 0
    while at != _END:
        order.append(shown[at])
        at = following[at]
    return points[order]


def _nearest(points: np.ndarray, point: np.ndarray) -> int:
    return int(((points - point) ** 2).sum(axis=1).argmin())


def simplified(points: np.ndarray, tolerance: float) -> np.ndarray:
    """Return the points (P, 2) of a ring (N, 2) that Ramer, Douglas and Peucker's algorithm keeps."""
    closed = np.concatenate([points, points[:1]])
    opposite = int(((points - points[0]) ** 2).sum(axis=1).argmax())
    kept, spans = {0, opposite}, [(0, opposite), (opposite, len(points))]
    while spans:
        start, end = spans.pop()
        if end - start < 2:
            continue
        along, between = closed[end] - closed[start], closed[start + 1 : end] - closed[start]
        distances = np.abs(between[:, 0] * along[1] - between[:, 1] * along[0]) / np.hypot(*along)
        far = int(distances.argmax())
        if distances[far] > tolerance:
            middle = start + 1 + far
            kept.add(middle)
            spans += [(start, middle), (middle, end)]
    return points[sorted(kept)]


def _ring(points: np.ndarray, tolerance: float) -> np.ndarray:
    """Return a ring of contourpy (N, 2) as a polygon in pixels of the mask without its padding."""
    corners = _corners(points)
    if not tolerance:
        return corners
    ring = simplified(points - 0.5, tolerance)  # the middles of pixel edges
    # A thin part could become a line
    return ring if _area(ring) >= MIN_AREA * _area(corners) else corners


def _corners(points: np.ndarray) -> np.ndarray:
    """Return the corners (P, 2) of the pixel edges that a ring of contourpy (N, 2) crosses.

    contourpy's grid points are the centers of the padded pixels. Each of its points is the middle of a pixel edge, with
    one coordinate halfway between two centers.
    """
    doubled = np.rint(points * 2).astype(np.int64)  # x is odd on a vertical edge, y on a horizontal one
    after = np.roll(doubled, -1, axis=0)
    is_vertical = doubled[:, 0] % 2 == 1
    is_corner = is_vertical != np.roll(is_vertical, -1)
    # The corner has x of the vertical edge and y of the horizontal one
    x = np.where(is_vertical, doubled[:, 0], after[:, 0])
    y = np.where(is_vertical, after[:, 1], doubled[:, 1])
    return (np.stack([x, y], axis=1)[is_corner] - 1) // 2  # without the padding; the first pixel begins at 0


def _area(ring: np.ndarray) -> float:
    """Return twice the area of a ring (P, 2)."""
    x, y = ring.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
