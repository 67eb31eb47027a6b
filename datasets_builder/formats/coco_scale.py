"""Recognize COCO files whose polygons are not in pixels of their photos: fractions, percent or a smaller copy."""

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .annotated import AnnotatedImage, Notes
from .coco_segmentation import photo_size

FRACTION = 1.01  # polygons in pixels have a coordinate above this, unless they have no pixel
PERCENT_END = 100.0
MIN_SIDE = 150  # pixels of photos in which all objects in the upper left 100 x 100 pixels are remarkable
COPY_SHARE = 0.6  # polygons of many photos reach further than this share of a side
MIN_POLYGONS = 20
AS_PERCENT = "photos whose polygons have no coordinate above 100; if these are percent, export them in pixels"
SMALLER = "photos whose polygons are all in the upper left part; if they are of smaller copies, export them again"


def check_scale(file: Path, images: list[AnnotatedImage], annotations: dict[Any, list[dict]], notes: Notes) -> None:
    """Check the coordinates of all polygons of a file together. Stops at the first photo with usual coordinates.

    Args:
        file: names the data set in errors.
        images: of the file.
        annotations: by id of the image.
        notes: counts photos whose coordinates can be percent, or those of a smaller copy.

    Raises:
        ValueError: all coordinates are fractions from 0 to 1.
    """
    first, largest, num_polygons, sizes = None, 0.0, 0, []
    can_be_percent = can_be_copy = True
    for image in images:
        polygons = list(_polygons(annotations.get(image.fields["id"], [])))
        if not polygons:
            continue
        right = max(max(polygon[::2]) for polygon in polygons)
        bottom = max(max(polygon[1::2]) for polygon in polygons)
        largest = max(largest, right, bottom)
        if largest > FRACTION:
            try:
                height, width = image.size or photo_size(image.path, image.where)
            except (OSError, ValueError):  # its error is raised later
                continue
            can_be_percent = can_be_percent and largest <= PERCENT_END and min(height, width) >= MIN_SIDE
            can_be_copy = can_be_copy and max(right / width, bottom / height) <= COPY_SHARE
            if not can_be_percent and not can_be_copy:
                return
        first = first or image
        num_polygons += len(polygons)
        sizes.append(image)
    if first is not None and largest <= FRACTION:
        raise ValueError(
            f"{file}: all coordinates of its polygons are fractions from 0 to 1, first: {first.where}; COCO needs "
            "pixels. Multiply x by the width and y by the height of the photo, or export it again."
        )
    if can_be_percent or (can_be_copy and num_polygons >= MIN_POLYGONS):
        for image in sizes:
            notes.add(AS_PERCENT if can_be_percent else SMALLER, image.where, image.path)


def _polygons(annotations: list[dict]) -> Iterator[array]:
    """Yield the polygons of an image in which all numbers are valid and x and y differ."""
    for annotation in annotations:
        parts = annotation.get("segmentation")
        if isinstance(parts, list):
            yield from (part for part in parts if isinstance(part, array) and len(part) > 5 and max(part) > min(part))
