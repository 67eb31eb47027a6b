"""Convert masks that annotation files contain as PNG, or as a part of the photo, to RLE of the whole photo."""

import base64
import struct
from typing import Any

import numpy as np

from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.images_gemma_lisa import open_upright, pixel_limit
from gemma_lisa.safety.short_text import show

from .coco_segmentation import BORDER
from .label_maps import INDEX_MODES

PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # width and height follow, 4 bytes each


def decode_base64(text: Any, where: str) -> bytes:
    """Return the bytes of a mask in base64.

    Raises:
        ValueError: the text is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: the mask is not a PNG in base64; draw it again.") from error


def png_size(png: bytes, where: str) -> tuple[int, int]:
    """Return (height, width) in pixels of a PNG without decoding it.

    Raises:
        ValueError: the bytes are not a PNG.
    """
    if png[: len(PNG_START)] != PNG_START:
        raise ValueError(f"{where}: the mask is not a PNG in base64; draw it again.")
    width, height = struct.unpack(">II", png[len(PNG_START) :][:8].ljust(8, b"\0"))
    return height, width


def png_pixels(png: bytes, where: str, with_alpha: bool = False) -> np.ndarray:
    """Return the pixels (H, W) bool of a mask: its numbers other than 0. Call `check_place` before.

    Args:
        png: the content of the file.
        where: names the object in errors.
        with_alpha: if the picture has transparent pixels, those that are not fully transparent are the mask.

    Raises:
        ValueError: the PNG cannot be read, or has several numbers per pixel.
    """
    picture = open_upright(png, f"{where}: the mask")
    if with_alpha and picture.has_transparency_data:
        return np.asarray(picture.convert("RGBA"))[..., 3] != 0
    if picture.mode not in INDEX_MODES:
        raise ValueError(
            f"{where}: the mask must have one number per pixel, got an image in mode {picture.mode}; draw it again."
        )
    return np.asarray(picture) != 0


def check_place(part: tuple[int, int], left: float, top: float, size: tuple[int, int], where: str) -> None:
    """Raise an error if a mask extends beyond its image by more than `BORDER`.

    Args:
        part: (height, width) in pixels of the mask.
        left, top: its first pixel.
        size: (height, width) in pixels of the image.
        where: names the object in errors.
    """
    check_size(size, where)
    if max(-left, -top, left + part[1] - size[1], top + part[0] - size[0]) > BORDER:
        raise ValueError(
            f"{where}: the mask extends beyond the image, which is {size[1]} x {size[0]} pixels (width x height); "
            "draw it again."
        )


def check_size(size: tuple[int, int], where: str) -> None:
    """Raise an error if an image of this size (height, width) has more pixels than the limit."""
    if size[0] * size[1] > pixel_limit():
        raise ValueError(
            f"{where}: the size of its image is {show(size[1])} x {show(size[0])} pixels (width x height), more than "
            f"the maximum of {pixel_limit():,} pixels; correct it."
        )


def placed(pixels: np.ndarray, left: int, top: int, size: tuple[int, int]) -> dict:
    """Return the RLE of a mask (h, w) bool on its image of this size. Pixels beyond the image are cut off."""
    canvas = np.zeros(size, dtype=np.uint8, order="F")
    bottom, right = top + pixels.shape[0], left + pixels.shape[1]
    visible = pixels[max(-top, 0) :, max(-left, 0) :]
    place = canvas[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    place[:] = visible[: place.shape[0], : place.shape[1]]
    return encode_mask(canvas)
