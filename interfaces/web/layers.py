"""What a browser needs to show masks over a picture: the picture and a layer per mask, as data addresses."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from gemma_lisa.drawing.overlay import PALETTE, READABLE_SIZE

SHOWN_SIZE = 1280  # pixels of the long side that a browser gets at most; masks are kept at the picture's own size
FILL_ALPHA, EDGE_ALPHA = 110, 255  # of 255
EDGE_SHARE = 220  # the edge is this part of the long side thick, and a pixel at least
_CLEAR, _FILL, _EDGE = 0, 1, 2  # entries of a layer's palette


def shown_picture(image: Image.Image) -> dict[str, Any]:
    """The picture for the page: url, own width and height in pixels, and is_small where pixels are to stay squares."""
    shown = image
    if max(image.size) > SHOWN_SIZE:
        shown = image.copy()
        shown.thumbnail((SHOWN_SIZE, SHOWN_SIZE), Image.Resampling.LANCZOS)
    is_small = max(image.size) < READABLE_SIZE
    url = data_url(shown, "PNG") if is_small else data_url(shown, "JPEG", quality=90)
    return {"url": url, "width": image.width, "height": image.height, "is_small": is_small}


def mask_layer(mask: np.ndarray, colour: tuple[int, int, int]) -> str:
    """A mask (H, W) as a clear picture with the mask filled and edged in the colour, at the size that is shown."""
    height, width = mask.shape
    long_side = max(height, width)
    if long_side > SHOWN_SIZE:
        size = (max(1, round(width * SHOWN_SIZE / long_side)), max(1, round(height * SHOWN_SIZE / long_side)))
        mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    elif (factor := -(-READABLE_SIZE // long_side)) > 1:
        mask = mask.repeat(factor, axis=0).repeat(factor, axis=1)
    core = mask
    for _ in range(max(1, max(mask.shape) // EDGE_SHARE)):
        core = _shrunk(core)
    layer = Image.fromarray(np.where(core, _FILL, np.where(mask, _EDGE, _CLEAR)).astype(np.uint8), mode="P")
    layer.putpalette([*colour] * 3)
    return data_url(layer, "PNG", transparency=bytes([0, FILL_ALPHA, EDGE_ALPHA]))


def number_place(mask: np.ndarray) -> tuple[float, float] | None:
    """Where a mask's number is put, (x, y) as shares of width and height: its own pixel nearest to its middle."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return None
    nearest = ((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2).argmin()
    return (columns[nearest] + 0.5) / mask.shape[1], (rows[nearest] + 0.5) / mask.shape[0]


def colour_of(index: int) -> tuple[int, int, int]:
    """Of the mask of that index, from 0."""
    return PALETTE[index % len(PALETTE)]


def data_url(image: Image.Image, format: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _shrunk(mask: np.ndarray) -> np.ndarray:
    """The mask without the pixels that touch what is beside it; the picture's border counts as beside."""
    padded = np.pad(mask, 1)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
