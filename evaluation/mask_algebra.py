"""Areas, unions, intersections and boundaries of RLE masks, in little time and memory.

pycocotools computes on the run lengths. Its C functions read past the end of invalid counts, so every mask must first
be returned by `checked`. Only `boundary_iou` decodes masks, and only their bounding box is compared.
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
    size = mask["size"]
    runs = run_lengths(removed["counts"], size[0] * size[1])
    # Runs of 0 and 1 alternate, 0 first: a run of length 0 in front of them swaps the two
    runs = runs[1:] if runs[0] == 0 and len(runs) > 1 else np.concatenate([[0], runs])
    return intersect(mask, _from_runs(runs, size))


def pairwise_iou(masks: list[RLE], others: list[RLE]) -> np.ndarray:
    """Return the IoU of each mask with each other one, (M, N) float64; 0 for two empty masks."""
    if not masks or not others:
        return np.zeros((len(masks), len(others)))
    return np.asarray(coco_mask.iou(masks, others, [0] * len(others)))


def boundary_iou(one: RLE, other: RLE, ignored: RLE | None = None) -> float:
    """Return the boundary IoU of two masks (Cheng et al. 2021, arXiv 2103.16562); 1 if both are empty.

    The boundary of a mask is its pixels within d of the background or the border of the image, in the chessboard
    metric. d is 0.02 times the diagonal of the image, rounded, and at least 1, as in the authors' code.

    Args:
        one, other: masks of the same size.
        ignored: pixels that are removed from both boundaries. The boundaries are those of the whole masks, so the
            border of the ignore region is no boundary.
    """
    masks = [one, other] if ignored is None else [one, other, ignored]
    boxes = coco_mask.toBbox(masks[:2]).astype(int)
    boxes = boxes[boxes[:, 2] > 0]
    if len(boxes) == 0:
        return 1.0
    if len(boxes) == 1:
        return 0.0
    (left, top), (right, bottom) = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    distance = max(1, round(DILATION_RATIO * math.hypot(*one["size"])))
    # pycocotools returns arrays in column order, so their transposes are contiguous
    crops = [coco_mask.decode(mask).T[left:right, top:bottom] for mask in masks]
    bands = [crop & ~_eroded(crop, distance) for crop in crops[:2]]
    if ignored is not None:
        bands = [band & ~crops[2] for band in bands]
    union = np.count_nonzero(bands[0] | bands[1])
    return np.count_nonzero(bands[0] & bands[1]) / union if union else 1.0


def _eroded(mask: np.ndarray, distance: int) -> np.ndarray:
    """Return a mask (H, W) of 0 and 1 eroded by a square of 2 * distance + 1 pixels. Pixels around it are 0."""
    for _ in range(2):
        mask = _windows(np.pad(mask.T, ((distance, distance), (0, 0))), 2 * distance + 1)
    return mask


def _windows(mask: np.ndarray, length: int) -> np.ndarray:
    """Return whether all pixels of each window of this length along the first axis are 1, (H - length + 1, W).

    The covered length doubles in each pass.
    """
    covered = 1
    while covered < length:
        step = min(covered, length - covered)
        mask = mask[:-step] & mask[step:]
        covered += step
    return mask


def _from_runs(runs: np.ndarray, size: tuple[int, int] | list[int]) -> RLE:
    return _plain(coco_mask.frPyObjects({"size": list(size), "counts": runs.tolist()}, *size))


def _plain(rle: RLE) -> RLE:
    """Return a mask of pycocotools in the format of rows."""
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
