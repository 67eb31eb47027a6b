"""Areas, unions, intersections and boundaries of RLE masks, in little time and memory.

pycocotools computes on the run lengths. Its C functions read past the end of invalid counts, so every mask must first
be returned by `checked`. Only `boundary_iou` decodes masks, and only in their bounding box.
"""

import math
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from gemma_lisa.datasets_builder.rows import run_lengths
from gemma_lisa.safety.short_text import name_of, show

RLE = dict[str, Any]
DILATION_RATIO = 0.02  # width of the boundary as a share of the image diagonal: Cheng et al. 2021, section 4


def checked(rle: RLE, size: tuple[int, int], where: str) -> RLE:
    """Return the mask if its counts are valid and it has the size of the image.

    Args:
        rle: {"size": [height, width], "counts": str}.
        size: (height, width) of the image in pixels.
        where: names the mask in errors, such as the id of its question.

    Raises:
        ValueError: the mask is not valid.
    """
    if list(rle["size"]) != list(size):
        raise ValueError(
            f"{name_of(where)}: a mask has the size {show(rle['size'])}, but its image has {list(size)} (height, "
            "width); give masks at the size of the upright image."
        )
    try:
        run_lengths(rle["counts"], size[0] * size[1])
    except ValueError as error:
        raise ValueError(
            f"{name_of(where)}: invalid mask RLE: {error}; encode masks with pycocotools.mask.encode."
        ) from error
    return {"size": list(size), "counts": rle["counts"]}


def empty(size: tuple[int, int]) -> RLE:
    """Return a mask without foreground."""
    return _from_runs(np.array([size[0] * size[1]]), size)


def area(mask: RLE) -> int:
    """Return the number of foreground pixels."""
    return int(coco_mask.area(mask))


def unite(masks: list[RLE], size: tuple[int, int]) -> RLE:
    """Return the union of masks; an empty mask if there are none."""
    if not masks:
        return empty(size)
    return masks[0] if len(masks) == 1 else _plain(coco_mask.merge(masks))


def intersect(one: RLE, other: RLE) -> RLE:
    """Return the intersection of two masks."""
    return _plain(coco_mask.merge([one, other], intersect=True))


def subtract(mask: RLE, removed: RLE) -> RLE:
    """Return the pixels of a mask that are not in another one."""
    runs = _runs(removed)
    # Runs of 0 and 1 alternate, 0 first: a run of length 0 in front of them swaps the two
    runs = runs[1:] if runs[0] == 0 and len(runs) > 1 else np.concatenate([[0], runs])
    return intersect(mask, _from_runs(runs, mask["size"]))


def pairwise_iou(masks: list[RLE], others: list[RLE]) -> np.ndarray:
    """Return the IoU of each mask with each other one, (M, N) float64; 0 for two empty masks."""
    if not masks or not others:
        return np.zeros((len(masks), len(others)))
    return np.asarray(coco_mask.iou(masks, others, [0] * len(others)))


def boundary_iou(one: RLE, other: RLE, ignored: RLE | None = None) -> float:
    """Return the boundary IoU of two masks (Cheng et al. 2021, arXiv 2103.16562); 1 if both are empty.

    The boundary of a mask is its pixels near the background or the border of the image: at most d pixels in both
    directions. As in the authors' code, this distance is 0.02 times the image diagonal, rounded, and at least 1.

    Args:
        one, other: masks of the same size.
        ignored: pixels that are removed from both boundaries. The boundaries are those of the whole masks, so the
            border of the ignore region is no boundary.
    """
    boxes = coco_mask.toBbox([one, other]).astype(int)
    boxes = boxes[boxes[:, 2] > 0]
    if len(boxes) == 0:
        return 1.0
    if len(boxes) == 1 and ignored is None:
        return 0.0
    (left, top), (right, bottom) = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    distance = max(1, round(DILATION_RATIO * math.hypot(*one["size"])))
    bands = []
    for mask in (one, other):
        crop = _crop(mask, left, right, top, bottom)
        bands.append(crop & ~_eroded(crop, distance))
    if ignored is not None:
        counted = ~_crop(ignored, left, right, top, bottom)
        bands = [band & counted for band in bands]
    union = np.count_nonzero(bands[0] | bands[1])
    return np.count_nonzero(bands[0] & bands[1]) / union if union else 1.0


def _crop(mask: RLE, left: int, right: int, top: int, bottom: int) -> np.ndarray:
    """Return a box of a mask, (right - left, bottom - top) uint8 of 0 and 1: the first axis is x, as in the runs."""
    height = mask["size"][0]
    ends = np.cumsum(_runs(mask)).clip(left * height, right * height)
    values = np.arange(len(ends), dtype=np.uint8) & 1  # runs of 0 and 1 alternate, 0 first
    filled = np.repeat(values, np.diff(ends, prepend=left * height))
    return filled.reshape(right - left, height)[:, top:bottom]


def _eroded(mask: np.ndarray, distance: int) -> np.ndarray:
    """Return a mask (W, H) of 0 and 1 eroded by a square of 2 * distance + 1 pixels. Pixels around it are 0."""
    width, height = mask.shape
    padded = np.zeros((width + 2 * distance, height + 2 * distance), dtype=np.uint8)
    padded[distance : distance + width, distance : distance + height] = mask
    covered, length = 1, 2 * distance + 1
    while covered < length:  # each pixel is 1 if all of a window of `covered` pixels after it are
        step = min(covered, length - covered)
        padded = padded[:-step] & padded[step:]
        padded = padded[:, :-step] & padded[:, step:]
        covered += step
    return padded


def _runs(mask: RLE) -> np.ndarray:
    return run_lengths(mask["counts"], mask["size"][0] * mask["size"][1])


def _from_runs(runs: np.ndarray, size: tuple[int, int] | list[int]) -> RLE:
    return _plain(coco_mask.frPyObjects({"size": list(size), "counts": runs.tolist()}, *size))


def _plain(rle: RLE) -> RLE:
    """Return a mask of pycocotools in the format of rows."""
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
