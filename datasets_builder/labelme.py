"""LabelMe's JSON files: the shapes that a person drew on a picture, as masks."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from .coco_segmentation import row_rle, segmentation_runs, turn, turn_of, unite
from .folder_tables import IGNORED, clean
from .json_files import read_json


def read_labelme(file: Path, photo: Path) -> dict[str, dict]:
    """The mask of every label on the upright photo, as rows hold it; several shapes of one label are united.

    Raises:
        ValueError: what is wrong, with the file and the shape.
    """
    content = read_json(file, "save it again in LabelMe")
    shapes = content.get("shapes") if isinstance(content, dict) else None
    size = (content.get("imageHeight"), content.get("imageWidth")) if isinstance(content, dict) else ()
    if not isinstance(shapes, list) or not all(type(side) is int and side > 0 for side in size):
        raise ValueError(f"{file}: has no shapes, imageHeight and imageWidth, as LabelMe writes them; save it there.")
    method = turn_of(photo, size, str(file))
    masks = defaultdict(list)
    for place, shape in enumerate(shapes, start=1):
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not clean(label):
            raise ValueError(f"{file}: its shape {place} has no label; give it one in LabelMe.")
        runs = _runs(shape, size, f"{file}: its shape {place} ({label})")
        masks[IGNORED if label == IGNORED else clean(label)].append(runs if method is None else turn(runs, method))
    return {label: row_rle(unite(same)) for label, same in masks.items()}


def _runs(shape: dict[str, Any], size: tuple[int, int], where: str) -> dict:
    """A shape's mask; corners are (x, y) in pixels from the image's top left corner."""
    kind = shape.get("shape_type") or "polygon"  # its first versions knew nothing else, and wrote none
    try:
        points = np.asarray(shape.get("points"), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: its points are no pairs of numbers; draw it again.") from error
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"{where}: its points are no pairs of numbers; draw it again.")
    if kind == "polygon":
        return segmentation_runs([points.ravel().tolist()], size, where)
    if kind not in ("rectangle", "circle"):
        raise ValueError(f"{where}: a {kind} is no area here; draw a polygon, a rectangle or a circle.")
    if len(points) != 2:
        raise ValueError(f"{where}: a {kind} of {len(points)} points; LabelMe writes two: draw it again.")
    if kind == "rectangle":
        (left, top), (right, bottom) = points.tolist()
        return segmentation_runs([[left, top, right, top, right, bottom, left, bottom]], size, where)
    (x, y), edge = points
    down, across = np.ogrid[: size[0], : size[1]]
    inside = (across + 0.5 - x) ** 2 + (down + 0.5 - y) ** 2 <= ((edge - points[0]) ** 2).sum()
    return coco_mask.encode(np.asfortranarray(inside, dtype=np.uint8))
