"""Helpers for tests of drawing: grey images, masks of one box, and the colours of an image."""

import numpy as np
from PIL import Image

GREY_VALUE = 60


def grey_image(width: int = 64, height: int = 64) -> Image.Image:
    return Image.new("RGB", (width, height), (GREY_VALUE,) * 3)


def box_mask(top: int, left: int, bottom: int, right: int, height: int = 64, width: int = 64) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def colours(picture: Image.Image) -> set[tuple[int, int, int]]:
    return set(map(tuple, np.asarray(picture).reshape(-1, 3).tolist()))
