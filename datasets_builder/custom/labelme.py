"""Read LabelMe's JSON files: the shapes drawn on a photo, as masks."""

import base64
import struct
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from gemma_lisa.datasets_builder.formats.coco_segmentation import BORDER, segmentation_runs, turn, turn_of, unite
from gemma_lisa.datasets_builder.formats.json_files import read_json
from gemma_lisa.datasets_builder.formats.label_maps import INDEX_MODES
from gemma_lisa.images_gemma_lisa import open_upright
from gemma_lisa.safety.short_text import name_of

from .folder_classes import IGNORED, clean
from .folder_tables import check_characters

PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # width and height follow, 4 bytes each
FOUR_CORNERS = ("rectangle", "oriented_rectangle", "rotation")  # of LabelMe and of tools that write its format


def read_labelme(file: Path, photo: Path) -> dict[str, dict]:
    """Return the mask of every label on the upright photo, in the format of rows. Shapes with one label are merged.

    Raises:
        ValueError: the file or a shape is not valid; the message names both.
    """
    content = read_json(file, "save it again in LabelMe")
    shapes = content.get("shapes") if isinstance(content, dict) else None
    size = (content.get("imageHeight"), content.get("imageWidth")) if isinstance(content, dict) else ()
    if not isinstance(shapes, list) or not all(type(side) is int and side > 0 for side in size):
        raise ValueError(f"{file}: shapes, imageHeight or imageWidth is missing; save the file in LabelMe.")
    method = turn_of(photo, size, str(file))
    masks = defaultdict(list)
    for place, shape in enumerate(shapes, start=1):
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not clean(label):
            raise ValueError(f"{file}: shape {place} has no label; add one in LabelMe.")
        check_characters(label, f"{file}: the label of shape {place}")
        runs = _runs(shape, size, f"{file}: shape {place} ({name_of(label)})")
        masks[IGNORED if label == IGNORED else clean(label)].append(turn(runs, method))
    return {label: unite(same) for label, same in masks.items()}


def _runs(shape: dict[str, Any], size: tuple[int, int], where: str) -> dict:
    """Return the mask of a shape. Its points are (x, y) in pixels from the top left corner of the image."""
    kind = shape.get("shape_type") or "polygon"  # the first versions only had polygons and did not write the type
    try:
        points = np.asarray(shape.get("points"), dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: points must be pairs of numbers; draw it again.") from error
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"{where}: points must be pairs of numbers; draw it again.")
    if kind == "polygon" or (kind in FOUR_CORNERS and len(points) == 4):
        return segmentation_runs([points.ravel().tolist()], size, where)
    if kind not in ("rectangle", "circle", "mask"):
        raise ValueError(
            f"{where}: shape type {name_of(kind)} is not supported; draw a polygon, a rectangle, a circle or a mask."
        )
    if len(points) != 2:
        raise ValueError(f"{where}: a {kind} must have 2 points, got {len(points)}; draw it again.")
    if kind == "mask":
        return _pasted(shape.get("mask"), points, size, where)
    if kind == "rectangle":
        (left, top), (right, bottom) = points.tolist()
        return segmentation_runs([[left, top, right, top, right, bottom, left, bottom]], size, where)
    (x, y), radius = points[0], _distance(*points)
    if max(-x, -y, x - size[1], y - size[0]) > BORDER or not radius <= sum(size):
        raise ValueError(
            f"{where}: the center is x {x:g}, y {y:g} and the radius {radius:g} pixels, but the image is {size[1]} x "
            f"{size[0]} pixels (width x height); draw it again."
        )
    return _circle(points, size)


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the distance in pixels of two points (2,).

    Not math.dist: if a library sets the CPU to flush denormal numbers to 0, it returns 0 or NaN for very large numbers.
    """
    with np.errstate(over="ignore"):
        return float(np.hypot(*(second - first)))


def _circle(points: np.ndarray, size: tuple[int, int]) -> dict:
    """Return the mask of a circle. points: (2, 2), the center and a point on the edge."""
    (x, y), radius_squared = points[0], ((points[1] - points[0]) ** 2).sum()
    inside = np.zeros(size, dtype=np.uint8, order="F")
    down = (np.arange(size[0]) + 0.5 - y) ** 2
    for column in range(size[1]):  # one at a time: the distances need eight times the memory of the mask
        inside[:, column] = (column + 0.5 - x) ** 2 + down <= radius_squared
    return coco_mask.encode(inside)


def _pasted(content: Any, box: np.ndarray, size: tuple[int, int], where: str) -> dict:
    """Return the mask of a shape of LabelMe's AI tools: a PNG in base64, placed at the top left pixel of a box.

    box: (2, 2), the first and last pixel, (x, y) each. Older versions of LabelMe wrote a box one pixel larger to the
    right and below, cropped at the border of the image.
    """
    advice = "draw it again in LabelMe"
    try:
        png = base64.b64decode(content, validate=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: the mask is not a PNG in base64; {advice}.") from error
    if png[: len(PNG_START)] != PNG_START:
        raise ValueError(f"{where}: the mask is not a PNG in base64; {advice}.")
    width, height = struct.unpack(">II", png[len(PNG_START) :][:8].ljust(8, b"\0"))  # before decoding
    (left, top), (right, bottom) = np.rint([box.min(axis=0), box.max(axis=0)]).tolist()
    if max(abs(right - left + 1 - width), abs(bottom - top + 1 - height)) > BORDER:
        raise ValueError(
            f"{where}: the mask is {width} x {height} pixels (width x height), but its box is "
            f"{right - left + 1:g} x {bottom - top + 1:g}; {advice}."
        )
    if max(-left, -top, left + width - size[1], top + height - size[0]) > BORDER:
        raise ValueError(
            f"{where}: the mask extends beyond the image, which is {size[1]} x {size[0]} pixels (width x height); "
            f"{advice}."
        )
    picture = open_upright(png, f"{where}: the mask")
    if picture.mode not in INDEX_MODES:
        raise ValueError(
            f"{where}: the mask must have one number per pixel, got an image in mode {picture.mode}; {advice}."
        )
    canvas = Image.new("L", size[::-1])
    canvas.paste(Image.fromarray((np.asarray(picture) != 0).astype(np.uint8)), (int(left), int(top)))
    return coco_mask.encode(np.asfortranarray(canvas))
