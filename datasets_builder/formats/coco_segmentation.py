"""An object's `segmentation`, as COCO JSON files write it, to a mask in runs.

Three ways of writing are common: polygons [[x, y, x, y, ...], ...] in pixels, (0, 0) = the image's top left corner;
runs {"size": [H, W], "counts": [0s, 1s, 0s, ...]} down the columns; the same with `counts` as COCO's compressed string.
Polygons are filled by pycocotools, several parts of one object are united, and nothing leaves the runs but where a mask
is turned or its runs are written unusually. Masks are as rows hold them: {"size": [H, W], "counts": str}.
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
from gemma_lisa.safety.short_text import show

from .jpeg_header import stored_size

# Pixels a polygon may reach beyond its image. Tools round and draw over the border; what lies there is cut off. Further
# out, the polygon was drawn on another picture or at another size.
BORDER = 2.0
FEWEST = 6  # numbers of a polygon: x and y of three points
# Pixels that the outlines of one object can be long. pycocotools takes 100 bytes for each, and ends the process where
# it gets none: a zigzag of 1 MB could ask for 40 GB.
MAX_OUTLINE = 4_000_000
# EXIF orientations that exchange width and height, and how Pillow sets them upright.
QUARTER_TURNS = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def segmentation_runs(segmentation: Any, size: tuple[int, int], where: str) -> dict:
    """The united mask of an object.

    Args:
        segmentation: as it stands in the JSON file: polygons (also as arrays of doubles), runs, or a list of both.
        size: (height, width) in pixels of the image it is drawn on.
        where: names the annotation in errors.

    Raises:
        ValueError: no segmentation, a broken one, one that was not drawn on an image of this size.
    """
    parts = segmentation if isinstance(segmentation, list) else [segmentation]
    if not parts or segmentation is None:
        raise ValueError(f"{where} has no segmentation; masks are needed, a box alone is none: export polygons or RLE.")
    if size[0] * size[1] > pixel_limit():
        raise ValueError(
            f"{where}: its image is noted as {show(size[1])} x {show(size[0])} pixels (width x height), more than the "
            f"{pixel_limit():,} that are read; correct it."
        )
    polygons = [_checked_polygon(part, size, where) for part in parts if isinstance(part, list | array)]
    if sum(map(_length, polygons)) > MAX_OUTLINE:
        raise ValueError(
            f"{where}: its outlines are longer than {MAX_OUTLINE:,} pixels together; export the mask as RLE."
        )
    united = [_row_rle(mask) for mask in coco_mask.frPyObjects(polygons, *size)] if polygons else []
    united += [_checked_runs(part, size, where) for part in parts if not isinstance(part, list | array)]
    return unite(united)


def visible_runs(segmentation: Any, size: tuple[int, int], where: str, skipped: dict[str, list[str]]) -> dict | None:
    """As `segmentation_runs`, for published sets, which hold scraps: none where nothing is covered.

    Polygons that enclose nothing, of less than three points, are passed over. skipped: lists of places by what was
    left out there; this adds to it.
    """
    if isinstance(segmentation, list):
        whole = [part for part in segmentation if not _is_scrap(part)]
        if len(whole) < len(segmentation):
            skipped["polygons of less than three points"].append(where)
        if not whole:
            skipped["annotations that cover no pixel"].append(where)
            return None
        segmentation = whole
    mask = segmentation_runs(segmentation, size, where)
    if not coco_mask.area(mask):
        skipped["annotations that cover no pixel"].append(where)
        return None
    return mask


def _is_scrap(part: Any) -> bool:
    return isinstance(part, list | array) and (len(part) < FEWEST or len(part) % 2 == 1)


def unite(masks: list[dict]) -> dict:
    """The union of masks of one size."""
    return masks[0] if len(masks) == 1 else _row_rle(coco_mask.merge(masks))


def photo_size(path: Path, where: str) -> tuple[int, int]:
    """(height, width) in pixels of a photo as it is shown, upright; errors as of `jpeg_header.stored_size`."""
    stored, orientation = stored_size(path, where)
    return stored[::-1] if orientation in QUARTER_TURNS else stored


def turn_of(path: Path, size: tuple[int, int], where: str) -> Image.Transpose | None:
    """How masks drawn at this size (height, width) come onto the upright image; none for as they are.

    Tools draw on the image as it is shown, upright, and note its size. One that ignores the EXIF orientation notes the
    stored size, and its masks lie on their side with the stored pixels. Where both sizes are the same, as in square
    photos, masks are taken to be upright.
    """
    if not path.is_file():
        raise ValueError(f"{where}: the image {path} does not exist; add it, or name its folder by the option images.")
    stored, orientation = stored_size(path, where)
    method = QUARTER_TURNS.get(orientation)
    upright = stored if method is None else stored[::-1]
    if size == upright:
        return None
    if size == stored:
        return method
    raise ValueError(
        f"{where}: noted as {show(size[1])} x {show(size[0])} pixels (width x height), but the image {path} is "
        f"{upright[1]} x {upright[0]}; export the annotations for the images as they are."
    )


def turn(mask: dict, method: Image.Transpose | None) -> dict:
    """The mask turned as `PIL.Image.Image.transpose(method)` turns its image; without a method as it is."""
    if method is None:
        return mask
    return encode_mask(np.asarray(Image.fromarray(coco_mask.decode(mask)).transpose(method)))


def _row_rle(mask: dict) -> dict:
    """The mask of pycocotools as rows hold it."""
    return {"size": [int(side) for side in mask["size"]], "counts": mask["counts"].decode("ascii")}


def _checked_polygon(polygon: list | array, size: tuple[int, int], where: str) -> array:
    try:
        if isinstance(polygon, list):
            polygon = array("d", [math.nan if number is None else number for number in polygon])
    except (TypeError, OverflowError) as error:
        raise ValueError(
            f"{where}: a polygon is not a list of numbers x, y, x, y, ...; write [[x, y, x, y, ...]]."
        ) from error
    if len(polygon) % 2 or len(polygon) < FEWEST:
        raise ValueError(
            f"{where}: a polygon of {len(polygon)} numbers; it needs x and y of each point and three points."
        )
    if not math.isfinite(sum(polygon)) and not all(map(math.isfinite, polygon)):
        raise ValueError(f"{where}: a polygon holds a coordinate that is not a finite number; correct it.")
    x, y = polygon[::2], polygon[1::2]
    left, right, top, bottom = min(x), max(x), min(y), max(y)
    if max(-left, -top, right - size[1], bottom - size[0]) > BORDER:
        raise ValueError(
            f"{where}: a polygon reaches x {left:g} to {right:g} and y {top:g} to {bottom:g}, but "
            f"its image is {size[1]} x {size[0]} pixels (width x height); draw it on this image at its own size."
        )
    return polygon


def _length(polygon: array) -> float:
    """Pixels that a polygon's outline passes, the edge back to its first point among them."""
    points = np.asarray(polygon).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def _checked_runs(rle: Any, size: tuple[int, int], where: str) -> dict:
    if not isinstance(rle, dict) or not {"size", "counts"} <= set(rle):
        raise ValueError(f"{where}: a segmentation is neither polygons [[x, y, ...], ...] nor RLE (size and counts).")
    if rle["size"] != list(size):
        raise ValueError(
            f"{where}: its RLE is of size {show(rle['size'])} (height, width) but its image is {list(size)}; a mask "
            "must be as large as its image."
        )
    try:
        counts, pixels = rle["counts"], size[0] * size[1]
        runs = _listed_runs(counts, pixels) if isinstance(counts, list) else run_lengths(counts, pixels)
    except ValueError as error:
        raise ValueError(f"{where}: broken RLE: {error}; export the masks again.") from error
    if not runs[1:].all():
        # Runs of length 0 are written by nobody but by hand; pycocotools stops at them when it unites
        values = np.arange(len(runs), dtype=np.uint8) & 1
        return encode_mask(np.repeat(values, runs).reshape(size[::-1]).T)
    if isinstance(rle["counts"], list):
        return _row_rle(coco_mask.frPyObjects({"size": list(size), "counts": rle["counts"]}, *size))
    return {"size": list(size), "counts": rle["counts"]}


def _listed_runs(counts: list, pixels: int) -> np.ndarray:
    """Uncompressed counts as run lengths (R,) int64, which cover so many pixels."""
    if not counts or not all(type(run) is int and 0 <= run < 2**31 for run in counts):
        raise ValueError("counts are empty or hold what is no run length")
    runs = np.asarray(counts, dtype=np.int64)
    check_coverage(runs, pixels)
    return runs
