"""Convert the results of a Label Studio annotation to objects. A region can have several results with one id."""

import base64
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gemma_lisa.datasets_builder.rows import encode_mask, is_unicode
from gemma_lisa.images_gemma_lisa import open_upright
from gemma_lisa.safety.short_text import name_of, shorten, show

from .annotated import AnnotatedObject, Notes
from .coco_records import LONGEST_SIDE
from .drawn_shapes import box_around, checked, ellipse
from .label_studio_rle import brush_mask

NO_LABEL = "skipped regions without a label"
DATA_URL = "data:image/png;base64,"
# The kind of a region by a key of its value. Regions of other kinds have no area
KINDS = {"points": "polygon", "rle": "brush", "imageDataURL": "bitmask", "radiusX": "ellipse", "height": "rectangle"}


@dataclass(slots=True)
class Region:
    """One region that an annotator drew."""

    kind: str  # of KINDS
    value: dict[str, Any]
    size: tuple[Any, Any]  # height and width of the photo, as the file states them
    is_rotated: bool  # drawn in a rotated view of the photo
    where: str
    labels: list[str] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)  # other answers about the region


def regions_of(results: list[dict], where: str, path: Path, notes: Notes) -> list[Region]:
    """Return the regions of a photo with a kind of KINDS and a label. Other results are counted.

    Args:
        results: of the photo.
        where: names the photo.
        path: of the photo.
        notes: receives what was skipped.
    """
    of_region = defaultdict(list)
    for place, result in enumerate(results, start=1):
        number = result.get("id")
        of_region[number if isinstance(number, str | int) else ("", place)].append((place, result))
    regions = []
    for parts in of_region.values():
        kinds = [(place, result, kind) for place, result in parts if (kind := _kind(result))]
        if not kinds:
            for place, result in parts:
                kind = shorten(str(result.get("type")), 40)
                notes.add(f"skipped results of type {kind}, which is not supported", f"{where}: result {place}", path)
            continue
        place, result, kind = kinds[0]
        region = Region(
            kind,
            result["value"],
            (result.get("original_height"), result.get("original_width")),
            result.get("image_rotation") not in (None, 0),
            f"{where}: result {place}",
        )
        for _, part in parts:
            _add_answers(region, part)
        if region.labels:
            regions.append(region)
        else:
            notes.add(NO_LABEL, region.where, path)
    return regions


def _kind(result: dict) -> str | None:
    """Return the kind of the region of a result, or None if it has no area on the photo."""
    value = result.get("value")
    if not isinstance(value, dict) or "start" in value or "vertices" in value:  # of texts, videos and vectors
        return None
    if "height" in value and not {"x", "y", "width"} <= set(value):
        return None
    return next((kind for key, kind in KINDS.items() if key in value), None)


def _add_answers(region: Region, result: dict) -> None:
    """Add the labels and the other answers of a result to its region."""
    kind, value = result.get("type"), result.get("value")
    answer = value.get(kind) if isinstance(value, dict) and isinstance(kind, str) else None
    texts = [text for text in (answer if isinstance(answer, list) else [answer]) if isinstance(text, str | int | float)]
    if not texts:
        return
    if kind.endswith("labels"):
        labels = dict.fromkeys(text for text in texts if isinstance(text, str) and text.strip())
        region.labels += [label for label in labels if label not in region.labels]
    elif isinstance(result.get("from_name"), str):
        region.fields[result["from_name"]] = ", ".join(map(str, texts))


def is_size(size: tuple[Any, Any]) -> bool:
    """Return whether a stated height and width are numbers of pixels."""
    return all(type(side) is int and 0 < side <= LONGEST_SIDE for side in size)


def objects_of(regions: list[Region], size: tuple[int, int] | None) -> list[AnnotatedObject]:
    """Return the objects of a photo: one for each label of each region.

    size: (height, width) in pixels of the photo; None if there are no regions.
    """
    objects = []
    for region in regions:
        where = f"{region.where} ({region.kind} {name_of(region.labels[0])})"
        outline, box, error = None, None, None
        try:
            if not all(map(is_unicode, region.labels)):
                raise ValueError("its label contains half of a character (a lone surrogate)")
            if region.size not in (size, (None, None)):
                height, width = (show(side, 40) for side in region.size)
                raise ValueError(
                    f"original_width and original_height are {width} and {height}, but those of the photo are "
                    f"{size[1]} and {size[0]}"
                )
            if region.kind == "rectangle":
                box = _box(region.value, size)
            else:
                outline = _OUTLINES[region.kind](region.value, size)
        except ValueError as wrong:
            error = ValueError(f"{where}: {str(wrong).rstrip('.')}; correct it in Label Studio and export it again.")
        for label in region.labels:
            objects.append(AnnotatedObject(label, where, outline, box=box, error=error, fields=region.fields))
    return objects


def _pixels(value: dict, size: tuple[int, int], x: str, y: str) -> tuple[float, float]:
    """Return a pair of numbers in pixels. x and y: keys of percent of the width and of the height."""
    pair = value.get(x), value.get(y)
    checked(*pair)
    return pair[0] * size[1] / 100, pair[1] * size[0] / 100


def _rotation(value: dict) -> float:
    degrees = value.get("rotation") or 0
    checked(degrees)
    return degrees


def _box(value: dict, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the upright box around a rectangle, which Label Studio rotates around its top left corner."""
    corner, sides = _pixels(value, size, "x", "y"), _pixels(value, size, "width", "height")
    return box_around(corner, sides, _rotation(value), corner)


def _polygon(value: dict, size: tuple[int, int]) -> list[list[float]]:
    points = value["points"]
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise ValueError(f"its points must be a list of pairs, got {show(points, 60)}")
    for point in points:
        checked(*point)
    return [[number for x, y in points for number in (x * size[1] / 100, y * size[0] / 100)]]


def _ellipse(value: dict, size: tuple[int, int]) -> list[list[float]]:
    center, radii = _pixels(value, size, "x", "y"), _pixels(value, size, "radiusX", "radiusY")
    return [ellipse(center, radii, _rotation(value), size)]


def _brush(value: dict, size: tuple[int, int]) -> dict:
    if value.get("format", "rle") != "rle":
        raise ValueError(f"the format of its mask must be rle, got {show(value['format'], 40)}")
    return brush_mask(value["rle"], size)


def _bitmask(value: dict, size: tuple[int, int]) -> dict:
    """Return the mask of a PNG in base64: its opaque pixels."""
    url = value["imageDataURL"]
    if not isinstance(url, str) or not url.startswith(DATA_URL):
        raise ValueError(f"its mask must be a PNG in base64, got {show(url, 60)}")
    try:
        png = base64.b64decode(url[len(DATA_URL) :], validate=True)
    except ValueError as error:
        raise ValueError("its mask is not a PNG in base64") from error
    picture = open_upright(png, "its mask")
    if picture.size != size[::-1]:
        raise ValueError(
            f"its mask is {picture.width} x {picture.height} pixels (width x height), but its photo is {size[1]} x "
            f"{size[0]}"
        )
    alpha = np.asarray(picture.convert("RGBA"))[..., 3]
    return encode_mask(alpha > int(alpha.max()) // 2)


_OUTLINES = {"polygon": _polygon, "ellipse": _ellipse, "brush": _brush, "bitmask": _bitmask}
