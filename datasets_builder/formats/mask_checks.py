"""Compare masks with the box and area that their file states, and recognize inverted RLE and RLE in row order."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from gemma_lisa.datasets_builder.rows import run_lengths

from .annotated import AnnotatedImage, AnnotatedObject, Notes
from .frames import Frame

# A mask and the box or area that its file states can differ by rounding. Beyond CLOSE_SIDE (pixels) or CLOSE_SHARE,
# they are counted. A mask whose box overlaps the stated one by less than MIN_OVERLAP (IoU) is another one.
CLOSE_SIDE, CLOSE_SHARE, MIN_OVERLAP = 3.0, 0.02, 0.5
CLOSE_AREA = 0.1  # share of the area
MAX_AREA = 2**62  # a larger number is no area
BOX_AREA = 0.01  # an area that differs less from that of the box is that of the box
# RLE is in row order if this share of its pixels has a neighbor one row length further. SHIFTED fewer have one a
# column length further. A thin oblique object has the same neighbors only if the sides of the photo are ALIKE.
ROW_SHARE, SHIFTED, ALIKE = 0.8, 0.1, 0.2

ROW_ORDER = "masks whose RLE seems to be in row order; COCO needs column order"
WHOLE_BORDER = "masks in RLE that contain the whole border of the photo; if they are inverted, export them again"


@dataclass(slots=True)
class ObjectMask:
    """An object with its masks on the upright photo, in the format of rows."""

    annotated: AnnotatedObject
    mask: dict | None  # None: it has no pixels, or only a box, or is bad
    ignore: dict | None = None  # region that may belong to the object: a crowd, or a box without an outline
    is_bad: bool = False  # its mask is unknown, so questions about its class would have a wrong mask


def check_masks(
    found: list[ObjectMask],
    image: AnnotatedImage,
    frame: Frame,
    notes: Notes,
    tolerate: Callable[[ValueError], None],
) -> None:
    """Compare each mask with the box and the area that its file states. A mask of another region is bad."""
    drawn = [(one, mask) for one in found if (mask := one.mask or (one.ignore if one.annotated.crowd else None))]
    checked = [
        (one, mask)
        for one, mask in drawn
        if one.annotated.box is not None or one.annotated.area or isinstance(one.annotated.segmentation, dict)
    ]
    if not checked:
        return
    masks = [mask for _, mask in checked]
    boxes, areas = coco_mask.toBbox(masks), coco_mask.area(masks)
    agree = _agree([one.annotated for one, _ in checked], boxes, areas, frame)
    runs = np.array([isinstance(one.annotated.segmentation, dict) and not one.annotated.crowd for one, _ in checked])
    for at in np.flatnonzero(~agree | runs).tolist():
        one, mask = checked[at]
        try:
            if runs[at]:
                _check_runs(one.annotated, mask, bool(agree[at]), image, notes)
            if not agree[at]:
                _check_stated(one.annotated, boxes[at], int(areas[at]), image, frame, notes)
        except ValueError as error:
            tolerate(error)
            one.mask, one.ignore, one.is_bad = None, None, True


def _check_runs(annotated: AnnotatedObject, mask: dict, agrees: bool, image: AnnotatedImage, notes: Notes) -> None:
    """Check that RLE is in column order, and count a mask that can be inverted.

    Args:
        mask: the RLE.
        agrees: whether it agrees with the stated box and area.

    Raises:
        ValueError: it is in row order.
    """
    (height, width), where = mask["size"], annotated.where
    edges = np.concatenate([[0], np.cumsum(run_lengths(mask["counts"], height * width))])
    filled = np.concatenate([[0], np.cumsum(np.diff(edges) * (np.arange(len(edges) - 1) % 2))])

    def pixels_before(places: np.ndarray) -> np.ndarray:
        return np.interp(places, edges, filled)

    def share(step: int) -> float:
        """Return the share of the pixels that have another one `step` further."""
        starts, ends = edges[1:-1:2] + step, edges[2::2] + step
        return float((pixels_before(ends) - pixels_before(starts)).sum() / filled[-1])

    if height != width and (by_row := share(width)) >= ROW_SHARE and by_row - share(height) > SHIFTED:
        if not agrees and abs(height - width) > ALIKE * max(height, width):
            raise ValueError(
                f"{where}: its RLE is in row order, but COCO needs column order; encode the pixels column by column, "
                "such as mask.flatten(order='F'), or with encode(numpy.asfortranarray(mask)) of pycocotools."
            )
        notes.add(ROW_ORDER, where, image.path)
    tops = np.arange(width) * height
    rows = [pixels_before(place + 1) - pixels_before(place) for place in (tops, tops + height - 1)]
    columns = [pixels_before(tops[at] + height) - pixels_before(tops[at]) for at in (0, -1)]
    if min(map(np.min, rows)) == 1 and min(columns) == height:
        notes.add(WHOLE_BORDER, where, image.path)


def _agree(annotated: list[AnnotatedObject], boxes: np.ndarray, areas: np.ndarray, frame: Frame) -> np.ndarray:
    """Return whether box and area of each mask plainly agree with what its file states, (N,) bool. Fast for COCO.

    Args:
        boxes: of the masks, (N, 4): x, y, width, height.
        areas: of the masks, (N,).
    """
    try:
        stated = np.array([one.box for one in annotated], dtype=np.float64)
        stated_areas = np.array([one.area for one in annotated], dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.zeros(len(annotated), dtype=bool)
    if stated.shape != boxes.shape or frame.scale is not None:
        return np.zeros(len(annotated), dtype=bool)
    ends = np.abs(boxes[:, :2] + boxes[:, 2:] - stated[:, :2] - stated[:, 2:])
    apart = np.maximum(np.abs(boxes[:, :2] - stated[:, :2]), ends).max(axis=1)
    return (apart <= CLOSE_SIDE) & (np.abs(stated_areas - areas) <= CLOSE_AREA * areas)


def _check_stated(
    annotated: AnnotatedObject, drawn: np.ndarray, area: int, image: AnnotatedImage, frame: Frame, notes: Notes
) -> None:
    """Compare a mask with what its file states.

    Args:
        drawn: (x, y, width, height) of the mask.
        area: pixels of the mask.

    Raises:
        ValueError: the stated box is that of another region, or the mask is inverted.
    """
    pixels, where, stated = frame.size[0] * frame.size[1], annotated.where, stated_area(annotated, frame)
    if stated and abs(stated - (pixels - area)) <= CLOSE_AREA * stated and abs(stated - area) > CLOSE_AREA * pixels:
        raise ValueError(
            f"{where}: its mask has {area:,} pixels, but its area is {stated:g}: the mask is inverted; export it again."
        )
    box = stated_box(annotated, frame)
    if box is not None and box[2] > 1 and box[3] > 1:
        difference, overlap = min((_difference(drawn, reading) for reading in _readings(box)), key=lambda pair: pair[0])
        close = CLOSE_SIDE + CLOSE_SHARE * float(drawn[2:].max())
        if difference > close and overlap < MIN_OVERLAP:
            raise ValueError(
                f"{where}: its mask is in the box {_shown(drawn)} (x, y, width, height), but its bbox is "
                f"{_shown(box)}; export the masks again, or remove bbox if it is wrong."
            )
        if difference > close:
            notes.add("objects whose mask differs from their bbox", where, image.path)
    outline = 2 * float(drawn[2:].sum())
    if stated and abs(stated - area) > CLOSE_AREA * area + outline:
        notes.add("objects whose mask differs from their area", where, image.path)


def _readings(box: np.ndarray) -> list[np.ndarray]:
    """Return the boxes (x, y, width, height) that a stated box can mean: some tools write both corners."""
    corners = np.concatenate([box[:2], box[2:] - box[:2]])
    return [box, corners] if (corners[2:] > 0).all() else [box]


def _difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the largest distance of two boxes' sides in pixels, and their IoU."""
    ends = first[:2] + first[2:], second[:2] + second[2:]
    distance = max(np.abs(first[:2] - second[:2]).max(), np.abs(ends[0] - ends[1]).max())
    common = np.clip(np.minimum(*ends) - np.maximum(first[:2], second[:2]), 0, None).prod()
    union = first[2:].prod() + second[2:].prod() - common
    return float(distance), float(common / union) if union else 0.0


def _shown(box: np.ndarray) -> str:
    return ", ".join(f"{number:g}" for number in box.round(1).tolist())


def stated_area(annotated: AnnotatedObject, frame: Frame) -> float | None:
    """Return the stated area in pixels, or None if there is none or it is that of the box, as in some tools."""
    area, box = annotated.area, stated_box(annotated, frame)
    if not isinstance(area, int | float) or not 1 < area < MAX_AREA or frame.scale is not None:
        return None
    return None if box is not None and abs(area - box[2] * box[3]) <= BOX_AREA * area else area


def stated_box(annotated: AnnotatedObject, frame: Frame) -> np.ndarray | None:
    """Return the stated box (x, y, width, height) in pixels of the frame, (4,), or None if there is no usable one."""
    try:
        box = np.asarray(annotated.box, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if box.shape != (4,) or not np.isfinite(box).all():
        return None
    return box if frame.scale is None else box * np.tile(frame.scale, 2)
