"""Convert the `segmentation` of COCO JSON files to masks in RLE, as rows store them: {"size": [H, W], "counts": str}.

Three formats are supported:

- polygons [[x, y, x, y, ...], ...] in pixels, with (0, 0) at the top left corner of the image
- RLE {"size": [H, W], "counts": [0s, 1s, 0s, ...]} in column order
- the same with `counts` as COCO's compressed string

pycocotools fills the polygons and merges the parts of an object. Masks stay in RLE unless they must be rotated or their
RLE contains runs of length 0.
"""

import math
from array import array
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from gemma_lisa.datasets_builder.rows import check_coverage, encode_mask, run_lengths
from gemma_lisa.images_gemma_lisa import pixel_limit
from gemma_lisa.safety.short_text import count_of, show

from .jpeg_header import stored_size

# Pixels that a polygon can extend beyond its image, where it is clipped: tools round and draw over the border. Beyond
# that, the polygon was drawn on another image or at another size.
BORDER = 2.0
MIN_NUMBERS = 6  # of a polygon: x and y of three points

# Maximum length in pixels of the outlines of one object. For each pixel, pycocotools allocates 100 bytes, and it exits
# the process if that fails. A zigzag in 1 MB of JSON could need 40 GB.
MAX_OUTLINE = 4_000_000
# EXIF orientations that swap width and height, and the Pillow operation that applies them.
QUARTER_TURNS = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# All orientations that change the pixels
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    **QUARTER_TURNS,
}


def segmentation_runs(segmentation: Any, size: tuple[int, int], where: str) -> dict:
    """Return the mask of an object, with all its parts merged.

    Args:
        segmentation: the value in the JSON file: polygons (also as arrays of doubles), RLE, or a list of both.
        size: (height, width) in pixels of the image it is drawn on.
        where: names the annotation in errors.

    Raises:
        ValueError: the segmentation is missing, invalid, or not drawn on an image of this size.
    """
    parts = segmentation if isinstance(segmentation, list) else [segmentation]
    if not parts or segmentation is None:
        raise ValueError(f"{where} has no segmentation; a box is not enough: export polygons or RLE.")
    if size[0] * size[1] > pixel_limit():
        raise ValueError(
            f"{where}: the size of its image is {show(size[1])} x {show(size[0])} pixels (width x height), more than "
            f"the maximum of {pixel_limit():,} pixels; correct it."
        )
    polygons = [_checked_polygon(part, size, where) for part in parts if isinstance(part, list | array)]
    num_points = sum(map(len, polygons)) // 2
    if num_points * max(size) > MAX_OUTLINE and sum(map(_length, polygons)) > MAX_OUTLINE:
        raise ValueError(
            f"{where}: the outlines of the polygons have more than {MAX_OUTLINE:,} pixels; export the mask as RLE."
        )
    united = [_row_rle(mask) for mask in coco_mask.frPyObjects(polygons, *size)] if polygons else []
    united += [_checked_runs(part, size, where) for part in parts if not isinstance(part, list | array)]
    return unite(united)


def visible_runs(segmentation: Any, size: tuple[int, int], where: str, skipped: dict[str, list[str]]) -> dict | None:
    """Return the mask as `segmentation_runs` does, or None if it is empty. For published data sets with bad polygons.

    Polygons of fewer than three points are skipped. `skipped` collects the names of skipped parts by reason.
    """
    if isinstance(segmentation, list):
        whole = [part for part in segmentation if not _is_too_short(part)]
        if len(whole) < len(segmentation):
            skipped["polygons of fewer than three points"].append(where)
        if not whole:
            skipped["annotations with an empty mask"].append(where)
            return None
        segmentation = whole
    mask = segmentation_runs(segmentation, size, where)
    if not coco_mask.area(mask):
        skipped["annotations with an empty mask"].append(where)
        return None
    return mask


def _is_too_short(part: Any) -> bool:
    return isinstance(part, list | array) and (len(part) < MIN_NUMBERS or len(part) % 2 == 1)


def unite(masks: list[dict]) -> dict:
    """Return the union of masks of the same size."""
    return masks[0] if len(masks) == 1 else _row_rle(coco_mask.merge(masks))


def photo_size(path: Path, where: str) -> tuple[int, int]:
    """Return (height, width) in pixels of an upright photo; errors as in `jpeg_header.stored_size`."""
    stored, orientation = stored_size(path, where)
    return stored[::-1] if orientation in QUARTER_TURNS else stored


def turn_of(path: Path, size: tuple[int, int], where: str) -> Image.Transpose | None:
    """Return the operation that aligns masks of this size (height, width) with the upright image, or None.

    Most tools draw on the upright image and store its size. A tool that ignores the EXIF orientation stores the size
    without rotation, and its masks must be rotated with the pixels. If both sizes are equal, as in square photos, masks
    are taken as upright.
    """
    if not path.is_file():
        raise ValueError(f"{where}: the image {path} does not exist; add it, or set the option images to its folder.")
    stored, orientation = stored_size(path, where)
    method = QUARTER_TURNS.get(orientation)
    upright = stored if method is None else stored[::-1]
    if size == upright:
        return None
    if size == stored:
        return method
    raise ValueError(
        f"{where}: its size is {show(size[1])} x {show(size[0])} pixels (width x height), but the image {path} is "
        f"{upright[1]} x {upright[0]}; export the annotations again for images of this size."
    )


def turn(mask: dict, method: Image.Transpose | None) -> dict:
    """Return the mask after `PIL.Image.Image.transpose(method)`; unchanged if method is None."""
    if method is None:
        return mask
    return encode_mask(np.asarray(Image.fromarray(coco_mask.decode(mask)).transpose(method)))


def _row_rle(mask: dict) -> dict:
    """Return a mask of pycocotools in the format of rows."""
    return {"size": [int(side) for side in mask["size"]], "counts": mask["counts"].decode("ascii")}


def _checked_polygon(polygon: list | array, size: tuple[int, int], where: str) -> array:
    try:
        if isinstance(polygon, list):
            polygon = array("d", [math.nan if number is None else number for number in polygon])
    except (TypeError, OverflowError) as error:
        raise ValueError(
            f"{where}: a polygon must be a list of numbers x, y, x, y, ...; write [[x, y, x, y, ...]]."
        ) from error
    if len(polygon) % 2 or len(polygon) < MIN_NUMBERS:
        raise ValueError(
            f"{where}: a polygon must have x and y of at least 3 points, got {count_of(len(polygon), 'number')}."
        )
    if not math.isfinite(sum(polygon)) and not all(map(math.isfinite, polygon)):
        raise ValueError(f"{where}: a coordinate of a polygon is not a finite number; correct it.")
    x, y = polygon[::2], polygon[1::2]
    left, right, top, bottom = min(x), max(x), min(y), max(y)
    if max(-left, -top, right - size[1], bottom - size[0]) > BORDER:
        raise ValueError(
            f"{where}: a polygon extends from x {left:g} to {right:g} and from y {top:g} to {bottom:g}, but its image "
            f"is {size[1]} x {size[0]} pixels (width x height); export it again for an image of this size."
        )
    return polygon


def _length(polygon: array) -> float:
    """Return the number of pixels of a closed polygon's outline."""
    points = np.asarray(polygon).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def _checked_runs(rle: Any, size: tuple[int, int], where: str) -> dict:
    if not isinstance(rle, dict) or not {"size", "counts"} <= set(rle):
        raise ValueError(f"{where}: a segmentation must be polygons [[x, y, ...], ...] or RLE (size and counts).")
    if rle["size"] != list(size):
        raise ValueError(
            f"{where}: the size of its RLE is {show(rle['size'])} (height, width), but its image is {list(size)}; both "
            "must be equal."
        )
    try:
        counts, pixels = rle["counts"], size[0] * size[1]
        runs = _listed_runs(counts, pixels) if isinstance(counts, list) else run_lengths(counts, pixels)
    except ValueError as error:
        raise ValueError(f"{where}: invalid RLE: {error}; export the masks again.") from error
    if not runs[1:].all():
        # pycocotools stops at runs of length 0 when it merges masks
        values = np.arange(len(runs), dtype=np.uint8) & 1
        return encode_mask(np.repeat(values, runs).reshape(size[::-1]).T)
    if isinstance(rle["counts"], list):
        return _row_rle(coco_mask.frPyObjects({"size": list(size), "counts": rle["counts"]}, *size))
    return {"size": list(size), "counts": rle["counts"]}


def _listed_runs(counts: list, pixels: int) -> np.ndarray:
    """Return uncompressed counts as run lengths (R,) int64. They must cover all pixels."""
    if not counts or not all(type(run) is int and 0 <= run < 2**31 for run in counts):
        raise ValueError("counts are empty or contain a value that is not a run length")
    runs = np.asarray(counts, dtype=np.int64)
    check_coverage(runs, pixels)
    return runs
