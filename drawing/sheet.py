"""Draw sheets of samples. Each sample is a card: its pictures side by side, its question and answer below them.

H, W = height and width of an image in pixels, K = number of its masks. As in PIL, positions are (x, y) and sizes are
(width, height).
"""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from gemma_lisa.images_gemma_lisa import IGNORE_VALUE

from .overlay import (
    GREY,
    INK,
    WHITE,
    alpha_of,
    checked_masks,
    chip_width,
    draw_caption,
    draw_chip,
    draw_text,
    paint_masks,
)

LINE = (222, 226, 232)
GOOD, FAIR, POOR = (22, 140, 78), (194, 120, 10), (200, 44, 52)
GOOD_IOU, FAIR_IOU = 0.7, 0.4  # minimum IoU of a green and of an amber badge; below, it is red
SHEET_ALPHA = 40  # opacity of a mask, of 255
SHEET_DIM = 140  # opacity of the white over pixels outside all masks, of 255; the masks keep their own colours
PANEL = 300  # long side of a picture in pixels
SHEET_FONT, SHEET_GAP = 18, 9


def draw_samples(samples: list[dict[str, Any]], columns: int = 1) -> Image.Image:
    """Return a sheet with one card per sample: image, target and prediction; below them question, answer and IoU.

    Args:
        samples: dicts of `image` (PIL), `question`, `target` (H, W) uint8 of 0, 1, 255 (ignore region, drawn hatched),
            `prediction` (K, H, W) bool, `answer` and `iou`, a float or None.
        columns: number of cards per row.
    """
    return _sheet([_card(sample) for sample in samples], columns, ("image", "target", "prediction"))


def draw_questions(samples: list[dict[str, Any]], columns: int = 1) -> Image.Image:
    """Return a sheet with one card per sample of a data set: image and masks; below them question and answer.

    Args:
        samples: dicts of `image` (PIL), `question`, `answer` and `masks` (K, H, W) uint8 of 0, 1, 255 (ignore region,
            drawn hatched), or None for a question without masks.
        columns: number of cards per row.
    """
    cards = []
    for sample in samples:
        image = sample["image"].convert("RGB")
        plain, size = _panel(image)
        shown = plain
        if sample["masks"] is not None:
            masks = np.asarray(sample["masks"])
            ignored = (masks == IGNORE_VALUE).any(axis=0) if len(masks) else np.zeros(image.size[::-1], dtype=bool)
            shown = painted(plain, checked_masks(masks == 1, image), ignored, "no target")
        caption = draw_caption(
            [(sample["question"], INK, True), (sample["answer"], GREY, False)], _width(2), SHEET_FONT
        )
        cards.append(_joined([plain, shown], size, caption))
    return _sheet(cards, columns, ("image", "masks"))


def _sheet(cards: list[Image.Image], columns: int, headings: tuple[str, ...]) -> Image.Image:
    """Return the cards in rows of `columns` cards, below the headings of their panels."""
    if not cards:
        raise ValueError("No samples to draw; give at least one.")
    gap, columns, strip = 2 * SHEET_GAP, min(columns, len(cards)), _headings(headings)
    card_width = cards[0].width
    rows = [cards[start : start + columns] for start in range(0, len(cards), columns)]
    row_heights = [max(card.height for card in row) for row in rows]

    height = strip.height + gap + sum(row_heights) + gap * len(rows)
    sheet = Image.new("RGB", (gap + columns * (card_width + gap), height), WHITE)
    draw = ImageDraw.Draw(sheet)
    for column in range(columns):
        sheet.paste(strip, (gap + column * (card_width + gap), gap // 2))
    top = strip.height + gap
    for row, height in zip(rows, row_heights, strict=True):
        for column, card in enumerate(row):
            left = gap + column * (card_width + gap)
            sheet.paste(card, (left, top))
            draw.rounded_rectangle((left, top, left + card_width - 1, top + height - 1), radius=8, outline=LINE)
        top += height + gap
    return sheet


def _card(sample: dict[str, Any]) -> Image.Image:
    """Return the card of a sample of `draw_samples`."""
    image, target = sample["image"].convert("RGB"), np.asarray(sample["target"])
    predictions = checked_masks(sample["prediction"], image)
    targets, ignored = checked_masks((target == 1)[None], image), target == IGNORE_VALUE
    plain, size = _panel(image)
    panels = [
        plain,
        painted(plain, targets, ignored, "no target"),
        painted(plain, predictions, np.zeros_like(ignored), "no mask"),
    ]

    iou = sample["iou"]
    badge = "" if iou is None else f"IoU {iou:.2f}"
    badge_width = round(chip_width(badge, SHEET_FONT)) + SHEET_GAP
    paragraphs = [(sample["question"], INK, True), (sample["answer"], GREY, False)]
    width = _width(len(panels))
    card = _joined(panels, size, draw_caption(paragraphs, width - SHEET_GAP, SHEET_FONT, reserved=badge_width))
    if badge:
        colour = GOOD if iou >= GOOD_IOU else FAIR if iou >= FAIR_IOU else POOR
        centre = (width - badge_width / 2 - SHEET_GAP / 2, size[1] + SHEET_GAP + 1.1 * SHEET_FONT)
        draw_chip(ImageDraw.Draw(card), centre, badge, colour, SHEET_FONT)
    return card


def _panel(image: Image.Image) -> tuple[Image.Image, tuple[int, int]]:
    """Return the image resized to a panel, and its new size (width, height)."""
    scale = PANEL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return fitted(image, size), size


def painted(plain: Image.Image, masks: np.ndarray, ignored: np.ndarray, nothing: str) -> Image.Image:
    """Return a panel with masks (K, H, W) and the ignore region (H, W), both given at the image's size.

    They are drawn at the panel's size, so that outlines are equally thick on every card.

    Args:
        nothing: text to show if all masks are empty.
    """
    size = plain.size
    masks = np.array([fitted_mask(mask, size) for mask in masks], dtype=bool).reshape(-1, size[1], size[0])
    picture = plain.copy()
    picture.paste(WHITE, mask=alpha_of(~masks.any(axis=0), SHEET_DIM))
    picture = paint_masks(hatched(picture, fitted_mask(ignored, size)), masks, SHEET_ALPHA, 3, SHEET_FONT)
    if not masks.any():
        centre = (chip_width(nothing, SHEET_FONT) / 2 + SHEET_GAP, size[1] - 1.2 * SHEET_FONT)
        draw_chip(ImageDraw.Draw(picture), centre, nothing, INK, SHEET_FONT)
    return picture


def _joined(panels: list[Image.Image], size: tuple[int, int], caption: Image.Image) -> Image.Image:
    """Return a card: panels of one size (width, height) side by side, and a caption below them."""
    gap = SHEET_GAP
    card = Image.new("RGB", (_width(len(panels)), size[1] + gap + max(caption.height, 2 * SHEET_FONT) + gap), WHITE)
    for column, panel in enumerate(panels):
        card.paste(panel, (gap + column * (PANEL + gap) + (PANEL - size[0]) // 2, gap))
    card.paste(caption, (0, size[1] + gap))
    return card


def _width(num_panels: int) -> int:
    return num_panels * PANEL + (num_panels + 1) * SHEET_GAP


def _headings(words: tuple[str, ...]) -> Image.Image:
    strip = Image.new("RGB", (_width(len(words)), round(1.6 * SHEET_FONT)), WHITE)
    draw = ImageDraw.Draw(strip)
    for column, heading in enumerate(words):
        centre = (SHEET_GAP + column * (PANEL + SHEET_GAP) + PANEL // 2, strip.height // 2)
        draw_text(draw, centre, heading, GREY, SHEET_FONT, bold=True, anchor="mm")
    return strip


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the picture resized to (width, height). Enlarging does not blur its pixels."""
    factor = -(-size[0] // picture.width)
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    return picture.resize(size, Image.Resampling.BOX)


def fitted_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a mask resized to (width, height). A pixel is set if a quarter of it is, so small targets stay visible."""
    return np.asarray(fitted(alpha_of(mask), size)) >= 64


def hatched(picture: Image.Image, ignored: np.ndarray) -> Image.Image:
    """Return the picture with grey diagonal stripes on the ignore region (H, W) bool."""
    picture = picture.copy()
    y, x = np.indices(ignored.shape)
    picture.paste((128, 128, 128), mask=alpha_of(ignored, 150))
    picture.paste((225, 225, 225), mask=alpha_of(ignored & ((x + y) % 10 < 3)))
    return picture
