"""Read label maps (images whose pixels are class numbers) and encode the masks of all their classes at once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ExifTags
from pycocotools import mask as coco_mask

from gemma_lisa.images_gemma_lisa import open_image, open_upright, own_limit, pixel_limit
from gemma_lisa.safety.short_text import listed

from .coco_segmentation import QUARTER_TURNS

PLANE_BITS = 32  # of a number in a label map
# Interpolation between areas of 2 and 9 makes narrow areas of 3 to 8 between them. Shares are of all changes of number
NARROW, MANY_BETWEEN, MOST_BETWEEN = 4, 0.25, 0.4  # pixels, share that is noted, share that is an error
SMALLEST_SIDE = 32  # pixels; in smaller maps all areas are narrow
BETWEEN = "label maps in which a number mostly lies between a smaller and a larger one, as after interpolation"
INDEX_MODES = ("1", "L", "P", "I;16", "I")  # modes of images with one number per pixel


def read_label_map(path: Path) -> np.ndarray:
    """Return the class numbers (H, W) of a label map, with its EXIF orientation applied. Palettes give their indices.

    Raises:
        ValueError: the file does not exist, cannot be read or is a color image.
    """
    picture = open_upright(path)
    if picture.mode not in INDEX_MODES:
        raise ValueError(f"{path}: a label map must have one number per pixel, got an image in mode {picture.mode}.")
    return np.asarray(picture)


def picture_size(path: Path) -> tuple[int, int] | None:
    """Return (height, width) in pixels of an upright image from its header, or None if it cannot be read.

    Its pixels are not decoded, so EXIF data after them is not known.
    """
    try:
        with own_limit(pixel_limit()), path.open("rb") as file, open_image(file) as image:
            is_turned = "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation) in QUARTER_TURNS
            return (image.width, image.height) if is_turned else (image.height, image.width)
    except Exception:  # Pillow raises many classes of errors on damaged files; reading the pixels raises a ValueError
        return None


def class_masks(labels: np.ndarray) -> dict[int, dict]:
    """Return the mask of every class number in a label map (H, W): {number: {"size": [H, W], "counts": str}}.

    The map is read once for all classes.
    """
    return {numbers[0]: mask for numbers, mask in plane_masks(labels).items()}


def plane_masks(*planes: np.ndarray, limit: int | None = None) -> dict[tuple[int, ...], dict]:
    """Return the mask of every combination of numbers in label maps (H, W) of one size, as `class_masks` does.

    Args:
        planes: such as a map of classes and a map of objects. Numbers must be at least 0 and less than 2 ** 32, and
            there can be two maps at most.
        limit: maximum number of combinations.

    Raises:
        ValueError: there are more combinations than the limit. The message does not name the file.
    """
    height, width = planes[0].shape
    downs = [plane.T.ravel() for plane in planes]  # COCO RLE is in column order
    changes = np.zeros(height * width - 1, dtype=bool)
    for down in downs:
        changes |= down[1:] != down[:-1]
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    ends = np.append(starts[1:], height * width)
    values = np.zeros(len(starts), dtype=np.uint64)
    for down in downs:
        values = values << np.uint64(PLANE_BITS) | down[starts].astype(np.uint64)
    order = np.argsort(values, kind="stable")  # groups the runs by class: there can be many classes
    groups = np.split(order, np.flatnonzero(np.diff(values[order])) + 1)
    if limit is not None and len(groups) > limit:
        raise ValueError(f"it has {len(groups):,} different numbers or colors, more than {limit:,}")
    masks = {}
    for of_class in groups:
        edges = np.stack([starts[of_class], ends[of_class]], axis=1).ravel()  # start, end, start, ...
        counts = np.diff(edges, prepend=0).tolist() + [int(height * width - edges[-1])]
        rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        key = tuple(int(down[starts[of_class[0]]]) for down in downs)
        masks[key] = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
    return masks


def check_interpolation(labels: np.ndarray, path: Path, note: Callable[[str], None]) -> None:
    """Check that the numbers of a label map (H, W) are not interpolated, as by resizing with smooth edges.

    Args:
        labels: class numbers.
        path: names the map in errors.
        note: counts a case of a kind.

    Raises:
        ValueError: several numbers occur in narrow areas between a smaller and a larger number.
    """
    if min(labels.shape) < SMALLEST_SIDE:
        return
    num_changes, num_between, numbers = 0, 0, set()
    for lines in (labels, labels.T):
        is_start = np.ones(lines.shape, dtype=bool)
        is_start[:, 1:] = lines[:, 1:] != lines[:, :-1]
        starts = np.flatnonzero(is_start)
        values, rows = lines.ravel()[starts], starts // lines.shape[1]
        num_changes += len(starts) - len(lines)
        before, value, after = values[:-2], values[1:-1], values[2:]
        is_between = ((before < value) & (value < after)) | ((before > value) & (value > after))
        is_between &= (rows[:-2] == rows[2:]) & (np.diff(starts[1:]) <= NARROW)
        num_between += int(is_between.sum())
        numbers.update(np.unique(value[is_between]).tolist())
    share = num_between / max(num_changes, 1)
    if share > MOST_BETWEEN and len(numbers) > 1:
        raise ValueError(
            f"{path}: its numbers {listed(sorted(numbers)[:5])} lie in narrow areas between smaller and larger "
            'numbers, so it was resized with smooth edges. Resize label maps with the method "nearest neighbor".'
        )
    if share > MANY_BETWEEN:
        note(BETWEEN)
