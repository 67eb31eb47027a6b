"""Convert the regions of VGG Image Annotator (VIA) to objects."""

import math
from pathlib import Path
from typing import Any

from gemma_lisa.datasets_builder.rows import is_unicode
from gemma_lisa.safety.short_text import name_of, shorten, show

from .annotated import AnnotatedImage, AnnotatedObject, Notes
from .coco_segmentation import QUARTER_TURNS
from .drawn_shapes import checked, ellipse
from .jpeg_header import stored_size

RECTANGLES = "rectangles, whose whole area is read as the mask"
DESCRIPTIONS = "regions named by the description of their option, not by its id"
NO_AREA = ("point", "polyline", "line")


def is_empty(value: Any) -> bool:
    """Return whether the value of an attribute names nothing."""
    return not _names(value)


def _names(value: Any) -> list[str]:
    """Return the texts of the value of an attribute. That of a checkbox is {"cat": true, "dog": false}."""
    if isinstance(value, dict):
        return [name for name, is_checked in value.items() if is_checked is True and name.strip()]
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        return []
    return [str(value).strip()]


def objects_of(
    regions: list, attribute: str, descriptions: dict[str, str], image: AnnotatedImage, notes: Notes
) -> list[AnnotatedObject]:
    """Return the objects of a photo: one for each class of each region. Regions without an area are counted.

    Args:
        regions: as in the file.
        attribute: that contains the class.
        descriptions: of the options of this attribute, by id.
        image: of the regions.
        notes: receives what was interpreted or skipped.
    """
    objects = []
    for place, region in enumerate(regions, start=1):
        where = f"{image.where}: region {place}"
        region = region if isinstance(region, dict) else {}
        shape, attributes = region.get("shape_attributes"), region.get("region_attributes")
        shape, attributes = (part if isinstance(part, dict) else {} for part in (shape, attributes))
        kind = shape.get("name")
        if kind in NO_AREA:
            notes.add(f"skipped regions of shape {kind}, which has no area", where, image.path)
            continue
        names = _names(attributes.get(attribute))
        where = f"{where} ({name_of(kind, 40)} {name_of(', '.join(names), 60)})"
        for name in names:
            if descriptions.get(name, name) != name:
                notes.add(DESCRIPTIONS, f"{where}: {name_of(descriptions[name], 60)}", image.path)
        if kind == "rect":
            notes.add(RECTANGLES, where, image.path)
        fields = {key: ", ".join(_names(value)) for key, value in attributes.items() if key != attribute}
        error = outline = None
        try:
            if not names:
                raise ValueError(f"its attribute {show(attribute, 60)} is empty, but must contain the class")
            if not all(map(is_unicode, names)):
                raise ValueError("its class contains half of a character (a lone surrogate)")
            outline = [_outline(kind, shape, image.path)]
        except ValueError as wrong:
            error = ValueError(f"{where}: {str(wrong).rstrip('.')}; correct it in VIA and export it again.")
        for name in names or [""]:
            one = AnnotatedObject(descriptions.get(name, name), where, outline, error=error, fields=fields)
            objects.append(one)
    return objects


def _outline(kind: Any, shape: dict[str, Any], photo: Path) -> list[float]:
    """Return the polygon [x, y, x, y, ...] of a shape, in pixels."""
    if kind in ("polygon", "polyline"):
        columns, rows = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(columns, list) or not isinstance(rows, list) or len(columns) != len(rows):
            raise ValueError("all_points_x and all_points_y must be lists of the same length")
        checked(*columns, *rows)
        return [number for point in zip(columns, rows, strict=True) for number in point]
    size = _border(photo)
    if kind == "rect":
        left, top, width, height = _numbers(shape, "x", "y", "width", "height")
        right, bottom = left + width, top + height
        if size is not None:
            left, right = (min(max(x, 0), size[1]) for x in (left, right))
            top, bottom = (min(max(y, 0), size[0]) for y in (top, bottom))
        return [left, top, right, top, right, bottom, left, bottom]
    if kind == "circle":
        x, y, radius = _numbers(shape, "cx", "cy", "r")
        return ellipse((x, y), (radius, radius), 0, size)
    if kind == "ellipse":
        x, y, radius_x, radius_y = _numbers(shape, "cx", "cy", "rx", "ry")
        radians = shape.get("theta", 0)
        checked(radians)
        return ellipse((x, y), (radius_x, radius_y), math.degrees(radians), size)
    raise ValueError(f"shape {shorten(show(kind), 60)} is not supported; draw a polygon, rectangle, circle or ellipse")


def _numbers(shape: dict[str, Any], *names: str) -> list[float]:
    numbers = [shape.get(name) for name in names]
    checked(*numbers)
    return numbers


def _border(photo: Path) -> tuple[int, int] | None:
    """Return (height, width) in pixels of a photo, or None if an EXIF rotation swaps them.

    The frame of the regions of a rotated photo is not known here.
    """
    try:
        stored, orientation = stored_size(photo, str(photo))
    except ValueError:
        return None  # the error of a damaged photo is raised when its row is made
    return None if orientation in QUARTER_TURNS else stored
