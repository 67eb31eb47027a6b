"""Draw the masks of annotated objects, upright, for all formats of labelling tools.

Holes are cut, parts without an area are skipped, and each mask is compared with the box and the area that its file
states. What was interpreted or skipped is counted in `Notes`.
"""

import re
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from gemma_lisa.datasets_builder.rows import decode_mask, encode_mask
from gemma_lisa.safety.short_text import name_of

from .annotated import AnnotatedImage, AnnotatedObject, Notes, ReportedError
from .coco_segmentation import BORDER, MIN_NUMBERS, segmentation_runs, turn, unite
from .frames import Frame
from .mask_checks import ObjectMask, check_masks, stated_area, stated_box

BACKGROUNDS = ("background", "bg")  # classes that users draw holes with, in any case and with any underscores
HOLES = ("hole", "holes")  # classes that can be objects, such as holes of a road
CAN_BE_HOLE = "objects named hole inside another object, read as objects (to cut them out, name them background)"
CORNERS = "boxes that reach beyond the photo, read as two corners (x, y, x, y)"
CROWDS = ("ignore", "things")  # values of the option crowds: what iscrowd marks
AS_CROWD = 'objects marked iscrowd: 1, read as ignore regions (if each is one object, set crowds to "things")'
BOX_OF_OUTLINE = "skipped boxes of objects that also have an outline"
SAME_BOX = 0.8  # minimum IoU of a box with that of an outline of the same object
INSIDE = 0.98  # share of a polygon's pixels that must be in another one of its object to be a hole of it
NOT_THE_SAME = 0.9  # a hole is smaller than this share of the polygon around it


def object_masks(
    image: AnnotatedImage, frame: Frame, crowds: str, notes: Notes, tolerate: Callable[[ValueError], None]
) -> list[ObjectMask]:
    """Return the objects of an image with their masks, without objects of a class named background.

    Args:
        image: with its objects.
        frame: of the annotations, from `frames.frames_of`.
        crowds: ignore: `iscrowd` marks ignore regions; things: it marks objects as others.
        notes: receives what was interpreted or skipped.
        tolerate: called with the error of each bad object.

    Raises:
        ValueError: the record of the image is bad; errors raised by `tolerate`.
    """
    found, cutouts = [], []
    for annotated in image.objects():
        try:
            if annotated.error is not None:
                raise annotated.error
            mask = _mask(annotated, image, frame, notes)
            box = _box_mask(annotated, image, frame, notes) if mask is None else None
        except ValueError as error:
            if not isinstance(error, ReportedError):
                tolerate(error)
            found.append(ObjectMask(annotated, None, is_bad=True))
            continue
        if is_background(annotated.name):
            cutouts.append((annotated, mask))
        elif mask is not None and annotated.crowd and crowds == "ignore":
            notes.add(AS_CROWD, annotated.where, image.path)
            found.append(ObjectMask(annotated, None, mask))
        else:
            found.append(ObjectMask(annotated, mask, box))
    _drop_boxes_of_outlines(found, image, notes)
    check_masks(found, image, frame, notes, tolerate)
    for annotated, mask in cutouts:
        _cut(annotated, mask, found, image, notes)
    for one in found:
        if one.mask and one.annotated.name.strip().lower() in HOLES and _is_inside(one, found):
            notes.add(CAN_BE_HOLE, one.annotated.where, image.path)
    for one in found:
        one.mask = one.mask and turn(one.mask, frame.turn)
        one.ignore = one.ignore and turn(one.ignore, frame.turn)
    return found


def _drop_boxes_of_outlines(found: list[ObjectMask], image: AnnotatedImage, notes: Notes) -> None:
    """Skip objects without an outline whose box is that of an outlined object of the same class.

    Label Studio's converter writes such a box beside each object.
    """
    boxes = [one for one in found if one.mask is None and one.ignore and not one.annotated.crowd]
    for one in boxes:
        same = [other.mask for other in found if other.mask and other.annotated.name == one.annotated.name]
        around = coco_mask.toBbox([one.ignore, *same]) if same else []
        if same and coco_mask.iou(around[1:], around[:1], [0]).max() >= SAME_BOX:
            one.ignore = None
            notes.add(BOX_OF_OUTLINE, one.annotated.where, image.path)


def is_background(name: str) -> bool:
    """Return whether a class is the background, which is never asked for."""
    return re.sub(r"[\W_]", "", name).lower() in BACKGROUNDS


# ---------------------------------------------------------------------------------------------------------------------
# One mask
# ---------------------------------------------------------------------------------------------------------------------
def _mask(annotated: AnnotatedObject, image: AnnotatedImage, frame: Frame, notes: Notes) -> dict | None:
    """Return the mask of an object in its frame, or None if it has no pixels."""
    parts = _parts(annotated.segmentation, frame.scale, annotated.where)
    whole = [part for part in parts if not _is_scrap(part)]
    if len(whole) < len(parts):
        notes.add("skipped parts of fewer than 3 points", annotated.where, image.path)
    if not whole:
        return None
    if len(whole) > 1 and all(isinstance(part, array) for part in whole):
        mask = _with_nested_holes(whole, annotated, image, frame, notes)
    else:
        mask = segmentation_runs(whole, frame.size, annotated.where)
    holes = [part for part in _parts(annotated.holes, frame.scale, annotated.where) if not _is_scrap(part)]
    if holes:
        mask = _minus(mask, segmentation_runs(holes, frame.size, annotated.where))
    return mask if coco_mask.area(mask) else None


def _parts(segmentation: Any, scale: tuple[float, float] | None, where: str) -> list:
    """Return the polygons (arrays of doubles, in pixels) and RLE of a segmentation. Other values stay."""
    if segmentation is None:
        return []
    if not isinstance(segmentation, list):
        return [segmentation] if segmentation else []
    if segmentation and all(isinstance(number, int | float) for number in segmentation):
        segmentation = [segmentation]  # one polygon without its list
    if len(segmentation) > 2 and all(isinstance(part, list | array) and len(part) == 2 for part in segmentation):
        raise ValueError(
            f"{where}: its segmentation is a list of points [x, y]; write one polygon as [[x, y, x, y, ...]]."
        )
    return [_scaled(part, scale, where) if isinstance(part, list | array) else part for part in segmentation]


def _scaled(polygon: list | array, scale: tuple[float, float] | None, where: str) -> array | list:
    try:
        polygon = polygon if isinstance(polygon, array) else array("d", polygon)
    except (TypeError, OverflowError):
        return polygon  # segmentation_runs names the fault
    if scale is None:
        return polygon
    if polygon and max(map(abs, polygon)) > 2 and scale[0] > 2:
        raise ValueError(
            f"{where}: coordinates must be fractions from 0 to 1, got {max(polygon):g}; export them again."
        )
    values = np.asarray(polygon)
    values = np.where(np.arange(len(values)) % 2 == 0, values * scale[0], values * scale[1])
    return array("d", values.tolist())


def _is_scrap(part: Any) -> bool:
    return isinstance(part, list | array) and len(part) < MIN_NUMBERS and len(part) % 2 == 0


def _with_nested_holes(
    polygons: list[array], annotated: AnnotatedObject, image: AnnotatedImage, frame: Frame, notes: Notes
) -> dict:
    """Return the mask of an object of several polygons. A polygon inside another one is a hole.

    COCO has no holes in polygons: its `area` then shows whether the inner polygon is filled.
    """
    if not _can_nest(polygons):
        return segmentation_runs(polygons, frame.size, annotated.where)
    masks = [segmentation_runs([polygon], frame.size, annotated.where) for polygon in polygons]
    filled, depths = unite(masks), _depths(masks)
    if not any(depths):
        return filled
    inside = np.zeros(frame.size, dtype=np.uint8)
    for at in np.argsort(depths, kind="stable"):
        inside[decode_mask(masks[at], annotated.where) == 1] = 1 - depths[at] % 2
    cut = encode_mask(inside)
    areas, stated = [int(coco_mask.area(mask)) for mask in (filled, cut)], stated_area(annotated, frame)
    if stated and abs(stated - areas[0]) < abs(stated - areas[1]):
        notes.add("objects with a polygon inside another one, filled as their area states", annotated.where, image.path)
        return filled
    notes.add("objects with a polygon inside another one, which was cut out as a hole", annotated.where, image.path)
    return cut


def _can_nest(polygons: list[array]) -> bool:
    """Return whether the box around a polygon is inside that of another one."""
    boxes = [(min(one[::2]), min(one[1::2]), max(one[::2]), max(one[1::2])) for one in polygons]
    return any(
        inner is not outer
        and inner[0] >= outer[0]
        and inner[1] >= outer[1]
        and inner[2] <= outer[2]
        and inner[3] <= outer[3]
        for inner in boxes
        for outer in boxes
    )


def _depths(masks: list[dict]) -> list[int]:
    """Return for each mask the number of others that it lies inside of."""
    boxes, areas = coco_mask.toBbox(masks), coco_mask.area(masks)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    around = (low[:, None] >= low[None]).all(-1) & (high[:, None] <= high[None]).all(-1)  # [inner, outer]
    around &= (areas[:, None] < NOT_THE_SAME * areas[None]) & (areas[:, None] > 0)
    depths = [0] * len(masks)
    for inner, outer in np.argwhere(around).tolist():
        common = coco_mask.area(coco_mask.merge([masks[inner], masks[outer]], intersect=True))
        depths[inner] += bool(common >= INSIDE * areas[inner])
    return depths


def _minus(mask: dict, hole: dict) -> dict:
    return encode_mask(decode_mask(mask, "mask") * (1 - decode_mask(hole, "hole")))


def _box_mask(annotated: AnnotatedObject, image: AnnotatedImage, frame: Frame, notes: Notes) -> dict | None:
    """Return the box of an object without an outline as a mask, or None if the object has no extent at all."""
    box = stated_box(annotated, frame)
    if box is None or not (box[2] > 0 and box[3] > 0) or annotated.area == 0:
        notes.add("skipped objects without any pixel", annotated.where, image.path)
        return None
    sides, ends = np.array(frame.size[::-1]), box[:2] + box[2:]
    if (ends > sides + BORDER).any() and (box[2:] <= sides + BORDER).all() and (box[2:] > box[:2]).all():
        notes.add(CORNERS, annotated.where, image.path)
        ends = box[2:]
    left, top = np.clip(box[:2], 0, sides)
    right, bottom = np.clip(ends, 0, sides)
    if right <= left or bottom <= top:
        notes.add("skipped objects without any pixel", annotated.where, image.path)
        return None
    notes.add("objects with a box only, read as ignore regions", annotated.where, image.path)
    return segmentation_runs(
        [[left, top, right, top, right, bottom, left, bottom]], frame.size, f"{annotated.where}: its box"
    )


# ---------------------------------------------------------------------------------------------------------------------
# Classes named background
# ---------------------------------------------------------------------------------------------------------------------
def _cut(
    annotated: AnnotatedObject, mask: dict | None, found: list[ObjectMask], image: AnnotatedImage, notes: Notes
) -> None:
    """Cut a region of a class named background out of the objects around it."""
    around = [one for one in found if one.mask and mask and _is_within(mask, one.mask)]
    for one in around:
        one.mask = _minus(one.mask, mask)
    kind = "regions named background, cut out as holes" if around else "skipped regions named background"
    notes.add(kind, f"{annotated.where} ({name_of(annotated.name)})", image.path)


def _is_within(inner: dict, outer: dict) -> bool:
    """Return whether a mask is a smaller part of another one."""
    area = coco_mask.area(inner)
    if not 0 < area < NOT_THE_SAME * coco_mask.area(outer):
        return False
    return bool(coco_mask.area(coco_mask.merge([inner, outer], intersect=True)) >= INSIDE * area)


def _is_inside(one: ObjectMask, found: list[ObjectMask]) -> bool:
    return any(other.mask and other is not one and _is_within(one.mask, other.mask) for other in found)
