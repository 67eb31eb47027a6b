"""Pictures people look at: masks on an image, an answer, a sheet of samples, the curves of a run.

H, W = size of an image in pixels, K = its masks. Colours are RGB; PIL's places are (x, y), its sizes (width, height).
"""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageDraw

from gemma_lisa.losses_gemma_lisa import IGNORE_VALUE

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
WHITE, INK, GREY, LINE = (255, 255, 255), (24, 28, 36), (98, 106, 120), (222, 226, 232)
BT601_LUMA, BRIGHT = (0.299, 0.587, 0.114), 160  # of red, green, blue; from which on dark text reads better
GOOD, FAIR, POOR = (22, 140, 78), (194, 120, 10), (200, 44, 52)
GOOD_IOU, FAIR_IOU = 0.7, 0.4  # badges are green and amber from here on, red below
READABLE_SIZE = 512  # smaller images are enlarged to this long side
NARROWEST_CAPTION = 384  # a caption under a narrower picture is this wide
FONT_SIZES = (16, 40)  # of captions, growing with the picture
LINE_HEIGHT = 1.35  # of the font size
OVERLAY_ALPHA, SHEET_ALPHA = 115, 40  # of 255: how strongly a mask is filled
SHEET_DIM = 140  # of 255: how strongly the sheet fades what is in no mask, so that a thing keeps its own colour
PANEL = 300  # long side of a picture on the sheet of samples
SHEET_FONT, SHEET_GAP = 18, 9
EVALUATION_SCORES = ("gIoU", "gIoU_all", "gIoU_plural", "cIoU", "N-acc", "T-acc")
TRAINING_LOSSES = ("language_loss", "mask_bce_loss", "mask_dice_loss")


def draw_overlay(image: Image.Image, masks: np.ndarray, labels: list[str] | None = None) -> Image.Image:
    """The image with each mask in its colour of `PALETTE`, numbered where there are several.

    An image below 512 pixels is enlarged first, by the least whole factor that reaches it, each pixel a square.

    Args:
        masks: (K, H, W) bool at the image's size.
        labels: K texts for a legend under the picture.
    """
    masks = _checked_masks(masks, image)
    if labels is not None and len(labels) != len(masks):
        raise ValueError(f"{len(labels)} labels for {len(masks)} masks; every mask needs one.")
    factor = -(-READABLE_SIZE // max(image.size))
    picture = image.convert("RGB")  # a copy, also of RGB
    if factor > 1:
        picture = picture.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
        masks = masks.repeat(factor, axis=1).repeat(factor, axis=2)
    font_size = _font_size(picture)
    picture = _paint(picture, masks, OVERLAY_ALPHA, max(2, max(picture.size) // 200), font_size)
    if not labels:
        return picture
    width = max(picture.width, NARROWEST_CAPTION)
    return _stack([picture, _legend(labels, width, font_size)])


def draw_answer(
    image: Image.Image, masks: np.ndarray, question: str, text: str, labels: list[str] | None = None
) -> Image.Image:
    """The overlay with the question, the answer and, if given, a legend under it.

    Args:
        masks: (K, H, W) bool at the image's size.
        text: The answer without `[SEG]`.
        labels: K texts, in the order of the masks.
    """
    if labels is not None and len(labels) != len(masks):
        raise ValueError(f"{len(labels)} labels for {len(masks)} masks; every mask needs one.")
    picture = draw_overlay(image, masks)
    font_size, width = _font_size(picture), max(picture.width, NARROWEST_CAPTION)
    parts = [picture, _caption([(question, INK, True), (text, GREY, False)], width, font_size)]
    if labels:
        parts.append(_legend(labels, width, font_size))
    return _stack(parts)


def draw_samples(samples: list[dict[str, Any]], columns: int = 1) -> Image.Image:
    """A sheet with one card per sample: image, target, prediction; under them question, answer and IoU.

    Args:
        samples: dicts of `image` (PIL), `question`, `target` (H, W) uint8 of 0, 1, 255 (drawn hatched), `prediction`
            (K, H, W) bool, `answer` (without `[SEG]`) and `iou`, a float or None.
        columns: Cards beside each other.
    """
    return _sheet([_card(sample) for sample in samples], columns, ("image", "target", "prediction"))


def draw_questions(samples: list[dict[str, Any]], columns: int = 1) -> Image.Image:
    """A sheet of data, with one card per sample: the image, and its masks; under them question and answer.

    Args:
        samples: dicts of `image` (PIL), `question`, `masks` (K, H, W) uint8 of 0, 1, 255 (drawn hatched), or none
            where the question asks for no mask, and `answer`.
        columns: Cards beside each other.
    """
    cards = []
    for sample in samples:
        image = sample["image"].convert("RGB")
        plain, size = _panel(image)
        shown = plain
        if sample["masks"] is not None:
            masks = np.asarray(sample["masks"])
            ignored = (masks == IGNORE_VALUE).any(axis=0) if len(masks) else np.zeros(image.size[::-1], dtype=bool)
            shown = _painted(plain, _checked_masks(masks == 1, image), ignored, "not there")
        caption = _caption([(sample["question"], INK, True), (sample["answer"], GREY, False)], _width(2), SHEET_FONT)
        cards.append(_joined([plain, shown], size, caption))
    return _sheet(cards, columns, ("image", "masks"))


def draw_curve(log_history: list[dict[str, Any]], path: str | Path | BinaryIO) -> None:
    """Saves a PNG of a run: losses (log scale) and evaluation scores over steps, of those that were logged.

    Args:
        log_history: `trainer.state.log_history`; several evaluation sets (`eval_<name>_gIoU`) are a line each.
        path: of the file, or a file that is open for writing.
    """
    from matplotlib.figure import Figure  # only this function needs it; without pyplot no window and nothing to close

    names = dict.fromkeys(name for entry in log_history for name in entry)
    scores = [n for n in names if n.startswith("eval_") and n.endswith(tuple(f"_{s}" for s in EVALUATION_SCORES))]
    groups = [("training loss", [n for n in TRAINING_LOSSES if n in names]), ("evaluation score", scores)]
    groups = [(title, members) for title, members in groups if members] or [("nothing logged", [])]

    figure = Figure(figsize=(6.5 * len(groups), 4.2), layout="constrained")
    for axes, (title, members) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        for index, name in enumerate(members):
            points = [(entry["step"], entry[name]) for entry in log_history if entry.get(name) is not None]
            if points:
                colour = tuple(channel / 255 for channel in PALETTE[index % len(PALETTE)])
                marker = "o" if name.startswith("eval_") or len(points) == 1 else None
                label = name.removeprefix("eval_").replace("_loss", "").replace("_", " ")
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=label)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if members is scores:
            axes.set_ylim(-0.02, 1.02)
        elif members:
            axes.set_yscale("log")
        if axes.lines:
            axes.legend(frameon=False)
    figure.savefig(path, dpi=120, format="png")


def text_colour(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Of text on the colour: white or dark, whichever reads better."""
    return INK if np.dot(colour, BT601_LUMA) > BRIGHT else WHITE


# ----------------------------------------------------------------------------------------------------------------------
# Masks


def _checked_masks(masks: np.ndarray, image: Image.Image) -> np.ndarray:
    masks = np.asarray(masks, dtype=bool)
    if len(masks) == 0:
        return np.zeros((0, image.height, image.width), dtype=bool)
    if masks.shape[1:] != (image.height, image.width):
        raise ValueError(f"masks are {masks.shape} but the image is {(image.height, image.width)} (height, width).")
    return masks


def _paint(picture: Image.Image, masks: np.ndarray, opacity: int, thickness: int, font_size: int) -> Image.Image:
    """Onto the picture: fills first, then outlines, then numbers, so that no mask hides another's edge."""
    colours = [PALETTE[index % len(PALETTE)] for index in range(len(masks))]
    halo = max(1, thickness // 3)
    # of each mask only its surroundings are looked at: most things are small, and photos are large
    crops = [_cropped(mask, halo) for mask in masks]
    for (left_top, crop), colour in zip(crops, colours, strict=True):
        picture.paste(colour, left_top, mask=_alpha(crop, opacity))
    for (left_top, crop), colour in zip(crops, colours, strict=True):
        picture.paste(WHITE, left_top, mask=_alpha(_grown(crop, halo) & ~crop))
        picture.paste(colour, left_top, mask=_alpha(crop & _grown(~crop, thickness)))
    if len(masks) > 1:
        draw = ImageDraw.Draw(picture)
        for index, (mask, colour) in enumerate(zip(masks, colours, strict=True)):
            if mask.any():
                _chip(draw, _chip_place(mask, font_size), str(index + 1), colour, font_size)
    return picture


def _cropped(mask: np.ndarray, margin: int) -> tuple[tuple[int, int], np.ndarray]:
    """What of a mask (H, W) is set, with a margin where the picture goes on; before it, its left and top in pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return (0, 0), mask[:1, :1]
    top, left = max(0, rows[0] - margin), max(0, columns[0] - margin)
    return (int(left), int(top)), mask[top : rows[-1] + 1 + margin, left : columns[-1] + 1 + margin]


def _alpha(mask: np.ndarray, opacity: int = 255) -> Image.Image:
    alpha = mask.astype(np.uint8)
    alpha *= opacity
    return Image.fromarray(alpha)


def _grown(mask: np.ndarray, steps: int) -> np.ndarray:
    """The mask (H, W) with all pixels up to `steps` steps up, down, left or right of it."""
    grown = mask.copy()
    for _ in range(steps):
        last = grown.copy()
        grown[1:] |= last[:-1]
        grown[:-1] |= last[1:]
        grown[:, 1:] |= last[:, :-1]
        grown[:, :-1] |= last[:, 1:]
    return grown


def _chip_place(mask: np.ndarray, font_size: int) -> tuple[int, int]:
    """Centre (x, y) for the number: deep inside a roomy mask, else above or below it; always inside the picture."""
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


def _chip_width(text: str, font_size: int) -> float:
    return max(1.2 * font_size, width_of(text, font_size) + 0.8 * font_size)


def _chip(
    draw: ImageDraw.ImageDraw, centre: tuple[float, float], text: str, colour: tuple[int, int, int], font_size: int
) -> None:
    """A rounded box in the colour with the text in it."""
    x, y = centre
    half_width, half_height = _chip_width(text, font_size) / 2, 0.72 * font_size
    box = (x - half_width, y - half_height, x + half_width, y + half_height)
    draw.rounded_rectangle(box, radius=font_size // 3, fill=colour, outline=WHITE)
    _write(draw, centre, text, text_colour(colour), font_size, bold=True, anchor="mm")


# ----------------------------------------------------------------------------------------------------------------------
# Text


def _font_size(picture: Image.Image) -> int:
    low, high = FONT_SIZES
    return min(max(max(picture.size) // 36, low), high)


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    colour: tuple[int, int, int],
    font_size: int,
    bold: bool = False,
    anchor: str = "la",
) -> None:
    """Pillow's built-in font has one weight; bold is a thin stroke around it."""
    stroke = font_size / 48 if bold else 0
    draw.text(place, text, fill=colour, font=font_for(text, font_size), anchor=anchor, stroke_width=stroke)


def _wrapped(text: str, font_size: int, width: float) -> list[str]:
    """Lines of at most `width` pixels; a word that is longer is broken."""
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


def _caption(
    paragraphs: list[tuple[str, tuple[int, int, int], bool]], width: int, font_size: int, reserved: int = 0
) -> Image.Image:
    """A white strip of (text, colour, bold) paragraphs; the last `reserved` pixels of each line stay free."""
    margin, step = font_size // 2, round(LINE_HEIGHT * font_size)
    lines = [
        (line, colour, bold)
        for text, colour, bold in paragraphs
        for line in _wrapped(text, font_size, width - 2 * margin - reserved - 1)
    ]
    strip = Image.new("RGB", (width, len(lines) * step + margin), WHITE)
    draw = ImageDraw.Draw(strip)
    for index, (line, colour, bold) in enumerate(lines):
        _write(draw, (margin, margin + index * step), line, colour, font_size, bold)
    return strip


def _legend(labels: list[str], width: int, font_size: int) -> Image.Image:
    """A white strip: each colour with its label; several to a line where they fit."""
    margin, step, indent = font_size // 2, round(1.6 * font_size), 2 * font_size
    x, y, pieces = margin, margin // 2, []  # pieces: x, y, index or none, text
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
            number = str(index + 1) if len(labels) > 1 else ""
            _chip(draw, (x + 0.7 * font_size, y + step / 2), number, PALETTE[index % len(PALETTE)], font_size)
        _write(draw, (x + indent - font_size // 4, y + step / 2), text, INK, font_size, anchor="lm")
    return strip


def _stack(parts: list[Image.Image]) -> Image.Image:
    """The parts under each other, centred on white."""
    stacked = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), WHITE)
    top = 0
    for part in parts:
        stacked.paste(part, ((stacked.width - part.width) // 2, top))
        top += part.height
    return stacked


# ----------------------------------------------------------------------------------------------------------------------
# The sheet of samples


def _sheet(cards: list[Image.Image], columns: int, headings: tuple[str, ...]) -> Image.Image:
    """Cards under the headings of their panels, so many beside each other."""
    if not cards:
        raise ValueError("no samples to draw; give at least one.")
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
    """Image, target and prediction; under them question, answer and IoU."""
    image, target = sample["image"].convert("RGB"), np.asarray(sample["target"])
    predictions = _checked_masks(sample["prediction"], image)
    targets, ignored = _checked_masks((target == 1)[None], image), target == IGNORE_VALUE
    plain, size = _panel(image)
    panels = [
        plain,
        _painted(plain, targets, ignored, "not there"),
        _painted(plain, predictions, np.zeros_like(ignored), "no mask"),
    ]

    iou = sample["iou"]
    badge = "" if iou is None else f"IoU {iou:.2f}"
    badge_width = round(_chip_width(badge, SHEET_FONT)) + SHEET_GAP
    paragraphs = [(sample["question"], INK, True), (sample["answer"], GREY, False)]
    width = _width(len(panels))
    card = _joined(panels, size, _caption(paragraphs, width - SHEET_GAP, SHEET_FONT, reserved=badge_width))
    if badge:
        colour = GOOD if iou >= GOOD_IOU else FAIR if iou >= FAIR_IOU else POOR
        centre = (width - badge_width / 2 - SHEET_GAP / 2, size[1] + SHEET_GAP + 1.1 * SHEET_FONT)
        _chip(ImageDraw.Draw(card), centre, badge, colour, SHEET_FONT)
    return card


def _panel(image: Image.Image) -> tuple[Image.Image, tuple[int, int]]:
    """The image at a panel's size, and that size (width, height)."""
    scale = PANEL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return _fitted(image, size), size


def _painted(plain: Image.Image, masks: np.ndarray, ignored: np.ndarray, nothing: str) -> Image.Image:
    """A panel with masks (K, H, W) and what is not counted (H, W), both at the image's size; `nothing` where no mask.

    Painted at the panel's size, so that outlines are equally thick on every card.
    """
    size = plain.size
    masks = np.array([_fitted_mask(mask, size) for mask in masks], dtype=bool).reshape(-1, size[1], size[0])
    picture = plain.copy()
    picture.paste(WHITE, mask=_alpha(~masks.any(axis=0), SHEET_DIM))
    picture = _paint(_hatched(picture, _fitted_mask(ignored, size)), masks, SHEET_ALPHA, 3, SHEET_FONT)
    if not masks.any():
        centre = (_chip_width(nothing, SHEET_FONT) / 2 + SHEET_GAP, size[1] - 1.2 * SHEET_FONT)
        _chip(ImageDraw.Draw(picture), centre, nothing, INK, SHEET_FONT)
    return picture


def _joined(panels: list[Image.Image], size: tuple[int, int], caption: Image.Image) -> Image.Image:
    """Panels of a size (width, height) beside each other over a caption."""
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
        _write(draw, centre, heading, GREY, SHEET_FONT, bold=True, anchor="mm")
    return strip


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at (width, height); square pixels stay square when it is enlarged."""
    factor = -(-size[0] // picture.width)
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    return picture.resize(size, Image.Resampling.BOX)


def _fitted_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A pixel is set from a quarter of its area on, so that small things stay visible."""
    return np.asarray(_fitted(_alpha(mask), size)) >= 64


def _hatched(picture: Image.Image, ignored: np.ndarray) -> Image.Image:
    """The picture with grey diagonal stripes where `ignored`, (H, W) bool."""
    picture = picture.copy()
    y, x = np.indices(ignored.shape)
    picture.paste((128, 128, 128), mask=_alpha(ignored, 150))
    picture.paste((225, 225, 225), mask=_alpha(ignored & ((x + y) % 10 < 3)))
    return picture
