"""Intersections and unions of masks as arrays, for masks that a model returns as arrays."""

import numpy as np

from gemma_lisa.images_gemma_lisa import IGNORE_VALUE


def intersection_and_union(pred: np.ndarray, target: np.ndarray) -> tuple[int, int]:
    """Return the numbers of foreground pixels in the intersection and in the union of prediction and target.

    Args:
        pred: (H, W) bool.
        target: (H, W) uint8 of 0, 1 and 255. Pixels with 255 are ignored.
    """
    if pred.dtype != bool or pred.shape != target.shape:
        raise ValueError(
            f"Prediction must be bool with the shape of the target, got {pred.dtype} {pred.shape} and target "
            f"{target.dtype} {target.shape}; resize the logits to the target's size and threshold them first."
        )
    counted = target != IGNORE_VALUE
    foreground = target == 1
    return int((pred & foreground).sum()), int(((pred | foreground) & counted).sum())


def unite(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the union (H, W) of K masks (K, H, W), in their dtype.

    bool: True where any mask is True. uint8: 1 where any mask is 1, else 255 where any mask is 255, else 0.

    Args:
        masks: (K, H, W) bool (predictions) or uint8 of 0, 1, 255 (targets).
        size: (height, width) in pixels, also of the empty mask that is returned for K = 0.
    """
    if masks.dtype not in (np.dtype(bool), np.dtype(np.uint8)):
        raise ValueError(f"masks must be bool (predictions) or uint8 of 0, 1, 255 (targets), got {masks.dtype}.")
    if len(masks) == 0:
        return np.zeros(size, dtype=masks.dtype)
    if masks.shape[1:] != tuple(size):
        raise ValueError(f"masks have size {masks.shape[1:]} but the image is {tuple(size)} (height, width).")
    if masks.dtype == bool:
        return masks.any(axis=0)
    united = np.where((masks == IGNORE_VALUE).any(axis=0), IGNORE_VALUE, 0).astype(np.uint8)
    united[(masks == 1).any(axis=0)] = 1
    return united
