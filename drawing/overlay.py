"""Draw masks on an image, with the question and the answer below it.

H, W = height and width of an image in pixels, K = number of its masks. Colours are RGB. As in PIL, positions are (x, y)
and sizes are (width, height).
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from .fonts import font_for, width_of

PALETTE = (
    (30, 136, 255),  # azure
    (255, 112, 0),  # orange
    (222, 48, 222),  # magenta
    (104, 200, 24),  # lime
    (235, 40, 60),  # red
    (0, 190, 190),  # teal
    (255, 218, 20),  # yellow
    (124, 77, 255),  # violet
    (255, 128, 171),  # pink
    (0, 140, 90),  # green
)
WHITE, INK, GREY = (255, 255, 255), (24, 28, 36), (98, 106, 120)
BT601_LUMA, BRIGHT = (0.299, 0.587, 0.114), 160  # weights of red, green, blue; above BRIGHT, text is dark
READABLE_SIZE = 512  # long side in pixels; smaller images are enlarged to at least this
NARROWEST_CAPTION = 384  # minimum width in pixels of a caption
FONT_SIZES = (16, 40)  # minimum and maximum in pixels; grows with the picture
LINE_HEIGHT = 1.35  # relative to the font size
OVERLAY_ALPHA = 115  # opacity of a mask, of 255


def draw_overlay(image: Image.Image, masks: np.ndarray, labels: list[str] | None = None) -> Image.Image:
    """Return the image with each mask in its colour of `PALETTE`, numbered if there are several.

    An image whose long side is below 512 pixels is enlarged first by `enlargement(image)`, without interpolation.

    Args:
        image: PIL image of any mode. It is not changed.
        masks: (K, H, W) bool at the image's size.
        labels: K texts for a legend below the picture.
    """
    masks = checked_masks(masks, image)
    if labels is not None and len(labels) != len(masks):
        raise ValueError(f"Each mask must have one label, got masks: {len(masks)}, labels: {len(labels)}.")
    factor = enlargement(image)
    picture = image.convert("RGB")  # convert always copies
    if factor > 1:
        picture = picture.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
        masks = masks.repeat(factor, axis=1).repeat(factor, axis=2)
    font_size = _font_size(picture)
    picture = paint_masks(picture, masks, OVERLAY_ALPHA, max(2, max(picture.size) // 200), font_size)
    if not labels:
        return picture
    width = max(picture.width, NARROWEST_CAPTION)
    return _stack([picture, _legend(labels, width, font_size)])


def draw_answer(
    image: Image.Image, masks: np.ndarray, question: str, text: str, labels: list[str] | None = None
) -> Image.Image:
    """Return the overlay with the question, the answer and, if given, a legend below it.

    Args:
        image: PIL image of any mode. It is not changed.
        masks: (K, H, W) bool at the image's size.
        question: question that was asked.
        text: answer to show, without `[SEG]`.
        labels: K texts for the legend, in the order of the masks.
    """
    if labels is not None and len(labels) != len(masks):
        raise ValueError(f"Each mask must have one label, got masks: {len(masks)}, labels: {len(labels)}.")
    picture = draw_overlay(image, masks)
    font_size, width = _font_size(picture), max(picture.width, NARROWEST_CAPTION)
    parts = [picture, draw_caption([(question, INK, True), (text, GREY, False)], width, font_size)]
    if labels:
        parts.append(_legend(labels, width, font_size))
    return _stack(parts)


def enlargement(image: Image.Image) -> int:
    """Return the whole factor by which `draw_overlay` enlarges an image, 1 for images of at least 512 pixels."""
    return -(-READABLE_SIZE // max(image.size))


def text_colour(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the colour of text on a background: white or dark, whichever is easier to read."""
    return INK if np.dot(colour, BT601_LUMA) > BRIGHT else WHITE


# ----------------------------------------------------------------------------------------------------------------------
# Masks


def checked_masks(masks: np.ndarray, image: Image.Image) -> np.ndarray:
    masks = np.asarray(masks, dtype=bool)
    if len(masks) == 0:
        return np.zeros((0, image.height, image.width), dtype=bool)
    if masks.shape[1:] != (image.height, image.width):
        size = (image.height, image.width)
        raise ValueError(f"masks have shape {masks.shape} but the image is {size} (height, width).")
    return masks


def paint_masks(
    picture: Image.Image,
    masks: np.ndarray,
    opacity: int,
    thickness: int,
    font_size: int,
    palette: Sequence[tuple[int, int, int]] = PALETTE,
) -> Image.Image:
    """Draw fills, then outlines, then numbers on the picture, so that no mask hides the outline of another."""
    colours = [palette[index % len(palette)] for index in range(len(masks))]
    halo = max(1, thickness // 3)
    # Only the bounding box of each mask is processed: most targets are small, and photos are large
    crops = [_cropped(mask, halo) for mask in masks]
    for (left_top, crop), colour in zip(crops, colours, strict=True):
        picture.paste(colour, left_top, mask=alpha_of(crop, opacity))
    for (left_top, crop), colour in zip(crops, colours, strict=True):
        picture.paste(WHITE, left_top, mask=alpha_of(_grown(crop, halo) & ~crop))
        picture.paste(colour, left_top, mask=alpha_of(crop & _grown(~crop, thickness)))
    if len(masks) > 1:
        draw = ImageDraw.Draw(picture)
        for index, (mask, colour) in enumerate(zip(masks, colours, strict=True)):
            if mask.any():
                draw_chip(draw, _chip_place(mask, font_size), str(index + 1), colour, font_size)
    return picture


def _cropped(mask: np.ndarray, margin: int) -> tuple[tuple[int, int], np.ndarray]:
    """Return the (left, top) in pixels and the crop of a mask (H, W) around its foreground, with a margin."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return (0, 0), mask[:1, :1]
    top, left = max(0, rows[0] - margin), max(0, columns[0] - margin)
    return (int(left), int(top)), mask[top : rows[-1] + 1 + margin, left : columns[-1] + 1 + margin]


def alpha_of(mask: np.ndarray, opacity: int = 255) -> Image.Image:
    alpha = mask.astype(np.uint8)
    alpha *= opacity
    return Image.fromarray(alpha)


def _grown(mask: np.ndarray, steps: int) -> np.ndarray:
    """Return the mask (H, W) dilated `steps` times by one pixel up, down, left and right."""
    grown = mask.copy()
    for _ in range(steps):
        last = grown.copy()
        grown[1:] |= last[:-1]
        grown[:-1] |= last[1:]
        grown[:, 1:] |= last[:, :-1]
        grown[:, :-1] |= last[:, 1:]
    return grown


def _chip_place(mask: np.ndarray, font_size: int) -> tuple[int, int]:
    """Return the centre (x, y) of a mask's number: inside a large mask, above or below a small one."""
    height, width = mask.shape
    stride = max(1, max(height, width) // 128)
    core, depth = np.pad(mask[::stride, ::stride], 1), 0
    deepest = np.argwhere(core)
    while core.any():
        deepest, depth = np.argwhere(core), depth + 1
        core = ~_grown(~core, 1)
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    if depth * stride > font_size:
        nearest = np.abs(deepest - deepest.mean(axis=0)).sum(axis=1).argmin()
        y, x = (deepest[nearest] - 1) * stride
    else:
        x = (columns[0] + columns[-1]) // 2
        y = rows[0] - font_size if rows[0] >= 2 * font_size else rows[-1] + font_size
    x, y = (
        min(max(int(place), font_size), max(size - font_size, font_size)) for place, size in ((x, width), (y, height))
    )
    return x, y


def chip_width(text: str, font_size: int) -> float:
    return max(1.2 * font_size, width_of(text, font_size) + 0.8 * font_size)


def draw_chip(
    draw: ImageDraw.ImageDraw, centre: tuple[float, float], text: str, colour: tuple[int, int, int], font_size: int
) -> None:
    """Draw a rounded box in the colour with the text inside."""
    x, y = centre
    half_width, half_height = chip_width(text, font_size) / 2, 0.72 * font_size
    box = (x - half_width, y - half_height, x + half_width, y + half_height)
    draw.rounded_rectangle(box, radius=font_size // 3, fill=colour, outline=WHITE)
    draw_text(draw, centre, text, text_colour(colour), font_size, bold=True, anchor="mm")


# ----------------------------------------------------------------------------------------------------------------------
# Text


def _font_size(picture: Image.Image) -> int:
    low, high = FONT_SIZES
    return min(max(max(picture.size) // 36, low), high)


def draw_text(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    colour: tuple[int, int, int],
    font_size: int,
    bold: bool = False,
    anchor: str = "la",
) -> None:
    """Draw a text. Bold is drawn as a thin stroke, because Pillow's built-in font has one weight only."""
    stroke = font_size / 48 if bold else 0
    draw.text(place, text, fill=colour, font=font_for(text, font_size), anchor=anchor, stroke_width=stroke)


def _wrapped(text: str, font_size: int, width: float) -> list[str]:
    """Return the text as lines of at most `width` pixels. Longer words are split."""
    lines = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            candidate = f"{line} {word}".lstrip()
            if width_of(candidate, font_size) <= width:
                line = candidate
                continue
            if line:
                lines.append(line)
            line = ""
            for letter in word:
                if line and width_of(line + letter, font_size) > width:
                    lines.append(line)
                    line = ""
                line += letter
        if line:
            lines.append(line)
    return lines


def draw_caption(
    paragraphs: list[tuple[str, tuple[int, int, int], bool]], width: int, font_size: int, reserved: int = 0
) -> Image.Image:
    """Return a white strip with (text, colour, bold) paragraphs. The last `reserved` pixels of each line stay empty."""
    margin, step = font_size // 2, round(LINE_HEIGHT * font_size)
    lines = [
        (line, colour, bold)
        for text, colour, bold in paragraphs
        for line in _wrapped(text, font_size, width - 2 * margin - reserved - 1)
    ]
    strip = Image.new("RGB", (width, len(lines) * step + margin), WHITE)
    draw = ImageDraw.Draw(strip)
    for index, (line, colour, bold) in enumerate(lines):
        draw_text(draw, (margin, margin + index * step), line, colour, font_size, bold)
    return strip


def _legend(labels: list[str], width: int, font_size: int) -> Image.Image:
    """Return a white strip with each colour and its label, several per line if they fit."""
    margin, step, indent = font_size // 2, round(1.6 * font_size), 2 * font_size
    x, y, pieces = margin, margin // 2, []  # pieces: x, y, index or None, text
    for index, label in enumerate(labels):
        lines = _wrapped(label, font_size, width - 2 * margin - indent) or [""]
        if (
            x > margin
            and x + indent + width_of(lines[0], font_size) > width - margin
            or (len(lines) > 1 and x > margin)
        ):
            x, y = margin, y + step
        for line_index, line in enumerate(lines):
            pieces.append((x, y + line_index * step, None if line_index else index, line))
        y += (len(lines) - 1) * step
        x = x + indent + round(width_of(lines[0], font_size)) + font_size if len(lines) == 1 else width
    strip = Image.new("RGB", (width, y + step + margin), WHITE)
    draw = ImageDraw.Draw(strip)
    for x, y, index, text in pieces:
        if index is not None:
            draw_chip(
                draw, (x + 0.7 * font_size, y + step / 2), str(index + 1), PALETTE[index % len(PALETTE)], font_size
            )
        draw_text(draw, (x + indent - font_size // 4, y + step / 2), text, INK, font_size, anchor="lm")
    return strip


def _stack(parts: list[Image.Image]) -> Image.Image:
    """Return the parts stacked vertically and centred on white."""
    stacked = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), WHITE)
    top = 0
    for part in parts:
        stacked.paste(part, ((stacked.width - part.width) // 2, top))
        top += part.height
    return stacked
