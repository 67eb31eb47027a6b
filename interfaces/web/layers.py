"""Images for the browser: the picture, and one transparent layer per mask, as data URLs."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from gemma_lisa.drawing.overlay import INK, PALETTE, READABLE_SIZE, WHITE

SHOWN_SIZE = 1280  # maximum long side in pixels of an image sent to the browser; masks keep the picture's own size
FILL_ALPHA, OUTLINE_ALPHA = 110, 255  # of 255
LINE_SHARE = 400  # each line of an outline is 1/400 of the long side thick, and at least 1 pixel
_CLEAR, _FILL, _DARK, _LIGHT, _COLOUR = range(5)  # entries of a layer's palette
# From the border of the mask inwards. One of the first two is visible on any background
OUTLINE = (_DARK, _LIGHT, _COLOUR)


def shown_picture(image: Image.Image) -> dict[str, Any]:
    """Return what the page needs to show a picture.

    Returns:
        url, width and height (of the original, in pixels) and is_small (True if pixels are shown as squares).
    """
    shown = image
    if max(image.size) > SHOWN_SIZE:
        shown = image.copy()
        shown.thumbnail((SHOWN_SIZE, SHOWN_SIZE), Image.Resampling.LANCZOS)
    is_small = max(image.size) < READABLE_SIZE
    url = data_url(shown, "PNG") if is_small else data_url(shown, "JPEG", quality=90)
    return {"url": url, "width": image.width, "height": image.height, "is_small": is_small}


def mask_layer(mask: np.ndarray, colour: tuple[int, int, int]) -> str:
    """Return a mask (H, W) as the data URL of a transparent PNG.

    The mask is filled with the colour. Its outline has a dark, a light and a coloured line, so that it is visible on
    every background.
    """
    height, width = mask.shape
    long_side = max(height, width)
    if long_side > SHOWN_SIZE:
        size = (max(1, round(width * SHOWN_SIZE / long_side)), max(1, round(height * SHOWN_SIZE / long_side)))
        mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    elif (factor := -(-READABLE_SIZE // long_side)) > 1:
        mask = mask.repeat(factor, axis=0).repeat(factor, axis=1)
    thickness = max(1, max(mask.shape) // LINE_SHARE)
    entries = np.full(mask.shape, _CLEAR, dtype=np.uint8)
    for line in OUTLINE:
        entries[mask] = line
        for _ in range(thickness):
            mask = _shrunk(mask)
    entries[mask] = _FILL
    layer = Image.fromarray(entries, mode="P")
    layer.putpalette([*colour, *colour, *INK, *WHITE, *colour])
    alphas = [0, FILL_ALPHA, *[OUTLINE_ALPHA] * len(OUTLINE)]
    return data_url(layer, "PNG", transparency=bytes(alphas))


def number_place(mask: np.ndarray) -> tuple[float, float] | None:
    """Return where to put a mask's number: its own pixel that is nearest to its mean position.

    Returns:
        (x, y) as shares of width and height, or None for an empty mask.
    """
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return None
    nearest = ((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2).argmin()
    return (columns[nearest] + 0.5) / mask.shape[1], (rows[nearest] + 0.5) / mask.shape[0]


def colour_of(index: int) -> tuple[int, int, int]:
    """Return the RGB colour of the mask with this index, counted from 0."""
    return PALETTE[index % len(PALETTE)]


def data_url(image: Image.Image, format: str, **options: Any) -> str:
    """Return the image as a data URL; `options` are those of `Image.save`."""
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _shrunk(mask: np.ndarray) -> np.ndarray:
    """Return the mask without the pixels at its border. Pixels outside the picture count as background."""
    padded = np.pad(mask, 1)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
