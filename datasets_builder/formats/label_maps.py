"""Read label maps (images whose pixels are class numbers) and encode the masks of all their classes at once."""

from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from gemma_lisa.images_gemma_lisa import open_upright

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


def class_masks(labels: np.ndarray) -> dict[int, dict]:
    """Return the mask of every class number in a label map (H, W): {number: {"size": [H, W], "counts": str}}.

    The map is read once for all classes.
    """
    height, width = labels.shape
    down = labels.T.ravel()  # COCO RLE is in column order
    starts = np.concatenate([[0], np.flatnonzero(down[1:] != down[:-1]) + 1])
    ends = np.append(starts[1:], down.size)
    values = down[starts]
    order = np.argsort(values, kind="stable")  # groups the runs by class: there can be many classes
    masks = {}
    for of_class in np.split(order, np.flatnonzero(np.diff(values[order])) + 1):
        value = values[of_class[0]]
        edges = np.stack([starts[of_class], ends[of_class]], axis=1).ravel()  # start, end, start, ...
        counts = np.diff(edges, prepend=0).tolist() + [int(down.size - edges[-1])]
        rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        masks[int(value)] = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
    return masks
