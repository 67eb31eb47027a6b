"""Read the shapes that LabelMe draws on a photo, as objects."""

from pathlib import Path
from typing import Any

import numpy as np

from gemma_lisa.datasets_builder.rows import encode_mask, is_unicode
from gemma_lisa.safety.short_text import name_of, show

from .annotated import IGNORED, AnnotatedObject, Notes
from .coco_segmentation import BORDER, photo_size
from .mask_pictures import check_place, check_size, decode_base64, placed, png_pixels, png_size

FOUR_CORNERS = ("rectangle", "oriented_rectangle", "rotation")  # of LabelMe and of tools that write its format
NO_AREA = ("point", "points", "line", "linestrip")
SUPPORTED = "draw a polygon, a rectangle, a circle or a mask"
MIN_POINTS = 3  # of a polygon
USED, EMPTY = ("label", "points", "shape_type", "mask"), (None, "", {}, [])  # keys and values that are no fields
WITHOUT_AREA = "skipped shapes without an area, such as points, lines and polygons of fewer than 3 points"


class Shapes:
    """Read the shapes of one photo.

    Args:
        file: of LabelMe.
        photo: path of the photo.
        size: (height, width) in pixels that the file states, or None.
        notes: counts the skipped shapes.
    """

    def __init__(self, file: Path, photo: Path, size: tuple[int, int] | None, notes: Notes):
        self.file, self.photo, self.size, self.notes = file, photo, size, notes

    def objects(self, shapes: list) -> list[AnnotatedObject]:
        """Return the shapes that have an area, also those with an error. Others are counted."""
        found = []
        for place, shape in enumerate(shapes, start=1):
            try:
                found.append(self._object(shape, place))
            except ValueError as error:
                label = shape.get("label") if isinstance(shape, dict) else None
                name = label if isinstance(label, str) and is_unicode(label) else ""
                found.append(AnnotatedObject(name, f"{self.file}: shape {place}", None, error=error))
        return [one for one in found if one is not None]

    def _object(self, shape: Any, place: int) -> AnnotatedObject | None:
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not label.strip(" _"):
            raise ValueError(f"{self.file}: shape {place} has no label; add one in LabelMe.")
        if not is_unicode(label):
            raise ValueError(
                f"{self.file}: the label of shape {place}: {show(label)} contains half of a character (a lone "
                "surrogate); write it again."
            )
        where = f"{self.file}: shape {place} ({name_of(label)})"
        segmentation = self._segmentation(shape, where)
        if segmentation is None:
            return None
        fields = {key: value for key, value in shape.items() if key not in USED and value not in EMPTY}
        return AnnotatedObject(label, where, segmentation, crowd=label == IGNORED, fields=fields)

    def _segmentation(self, shape: dict[str, Any], where: str) -> list | dict | None:
        """Return the polygons or the RLE of a shape; None if it has no area."""
        kind = shape.get("shape_type") or "polygon"  # the first versions only had polygons and did not write the type
        points = _points(shape.get("points"), where)
        if kind in NO_AREA or not len(points):
            reason = f"shape type {kind} is not supported; {SUPPORTED}" if kind in NO_AREA else "it has no points"
            return self.notes.add(WITHOUT_AREA, f"{where}: {reason}", self.photo)
        if kind == "polygon" or (kind in FOUR_CORNERS and len(points) == 4):
            if len(points) < MIN_POINTS:
                reason = f"a polygon must have at least {MIN_POINTS} points, got {len(points)}"
                return self.notes.add(WITHOUT_AREA, f"{where}: {reason}", self.photo)
            return [points.ravel().tolist()]
        if kind not in ("rectangle", "circle", "mask"):
            raise ValueError(f"{where}: shape type {name_of(kind)} is not supported; {SUPPORTED}.")
        if len(points) != 2:
            raise ValueError(f"{where}: a {kind} must have 2 points, got {len(points)}; draw it again.")
        if kind == "rectangle":
            (left, top), (right, bottom) = points.tolist()
            return [[left, top, right, top, right, bottom, left, bottom]]
        size = self.size or photo_size(self.photo, where)
        return _pasted(shape.get("mask"), points, size, where) if kind == "mask" else _circle(points, size, where)


def _points(points: Any, where: str) -> np.ndarray:
    """Return the points (N, 2) float64: (x, y) in pixels from the top left corner of the image."""
    try:
        points = np.asarray([] if points is None else points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: points must be pairs of numbers; draw it again.") from error
    if not points.size:
        return np.empty((0, 2))
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"{where}: points must be pairs of numbers; draw it again.")
    return points


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the distance in pixels of two points (2,).

    Not math.dist: if a library sets the CPU to flush denormal numbers to 0, it returns 0 or NaN for very large numbers.
    """
    with np.errstate(over="ignore"):
        return float(np.hypot(*(second - first)))


def _circle(points: np.ndarray, size: tuple[int, int], where: str) -> dict:
    """Return the mask of a circle. points: (2, 2), the center and a point on the edge."""
    (x, y), radius = points[0], _distance(*points)
    check_size(size, where)
    if max(-x, -y, x - size[1], y - size[0]) > BORDER or not radius <= sum(size):
        raise ValueError(
            f"{where}: the center is x {x:g}, y {y:g} and the radius {radius:g} pixels, but the image is {size[1]} x "
            f"{size[0]} pixels (width x height); draw it again."
        )
    radius_squared = ((points[1] - points[0]) ** 2).sum()
    inside = np.zeros(size, dtype=np.uint8, order="F")
    down = (np.arange(size[0]) + 0.5 - y) ** 2
    for column in range(size[1]):  # one at a time: the distances need eight times the memory of the mask
        inside[:, column] = (column + 0.5 - x) ** 2 + down <= radius_squared
    return encode_mask(inside)


def _pasted(content: Any, box: np.ndarray, size: tuple[int, int], where: str) -> dict:
    """Return the mask of a shape of LabelMe's AI tools: a PNG in base64, placed at the top left pixel of a box.

    box: (2, 2), the first and last pixel, (x, y) each. Older versions of LabelMe wrote a box one pixel larger to the
    right and below, cropped at the border of the image.
    """
    png = decode_base64(content, where)
    height, width = png_size(png, where)
    (left, top), (right, bottom) = np.rint([box.min(axis=0), box.max(axis=0)]).tolist()
    if max(abs(right - left + 1 - width), abs(bottom - top + 1 - height)) > BORDER:
        raise ValueError(
            f"{where}: the mask is {width} x {height} pixels (width x height), but its box is "
            f"{right - left + 1:g} x {bottom - top + 1:g}; draw it again in LabelMe."
        )
    check_place((height, width), left, top, size, where)
    return placed(png_pixels(png, where), int(left), int(top), size)
