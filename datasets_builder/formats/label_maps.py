"""Label maps: pictures whose pixels are class numbers, and the masks of all their classes at once."""

from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from gemma_lisa.images_gemma_lisa import open_upright

INDEX_MODES = ("1", "L", "P", "I;16", "I")  # of pictures that hold one number a pixel


def read_label_map(path: Path) -> np.ndarray:
    """The class numbers (H, W) of a label map, upright if it has an EXIF orientation; of a palette the indices.

    Raises:
        ValueError: no such file, one that cannot be read, or one that holds colors.
    """
    picture = open_upright(path)
    if picture.mode not in INDEX_MODES:
        raise ValueError(f"{path}: a label map needs one number a pixel; this is a picture in {picture.mode}.")
    return np.asarray(picture)


def class_masks(labels: np.ndarray) -> dict[int, dict]:
    """The mask of every class number in a label map (H, W), as rows hold it: {"size": [H, W], "counts": str}.

    The map is passed over once for all classes.
    """
    height, width = labels.shape
    down = labels.T.ravel()  # COCO's runs go down the columns
    starts = np.concatenate([[0], np.flatnonzero(down[1:] != down[:-1]) + 1])
    ends = np.append(starts[1:], down.size)
    values = down[starts]
    order = np.argsort(values, kind="stable")  # the runs of each class one behind the other: there may be many classes
    masks = {}
    for of_class in np.split(order, np.flatnonzero(np.diff(values[order])) + 1):
        value = values[of_class[0]]
        edges = np.stack([starts[of_class], ends[of_class]], axis=1).ravel()  # where it begins, ends, begins, ...
        counts = np.diff(edges, prepend=0).tolist() + [int(down.size - edges[-1])]
        rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        masks[int(value)] = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
    return masks
