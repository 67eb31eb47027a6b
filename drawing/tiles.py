"""Draw a board of small tiles in labelled groups. A tile is an image with its masks, in a green or red frame, above its
question.

As in PIL, positions are (x, y) and sizes are (width, height), in pixels.
"""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .overlay import INK, WHITE, draw_caption, draw_text
from .sheet import GOOD, POOR, SHEET_GAP, fitted, painted

TILE = 176  # side of a tile's picture
TILE_FONT, LABEL_FONT = 15, 20
FRAME = 5  # thickness of a frame


def draw_board(groups: list[tuple[str, list[dict[str, Any]]]], columns: int = 1) -> Image.Image:
    """Return a board with a label above the tiles of each group.

    Args:
        groups: label and tiles of each group. A tile is a dict of `image` (PIL), `masks` (K, H, W) bool, `question`,
            `note` (below the question) and `is_right`, which decides the colour of the frame and the note.
        columns: number of groups per row.
    """
    drawn = [(label, [_tile(tile) for tile in tiles]) for label, tiles in groups]
    most = max((len(tiles) for _, tiles in drawn), default=0)
    if not most:
        raise ValueError("No tiles to draw; give at least one.")
    step, gap = TILE + SHEET_GAP, 3 * SHEET_GAP
    group_width = most * step - SHEET_GAP
    rows = [drawn[start : start + columns] for start in range(0, len(drawn), columns)]
    heights = [2 * LABEL_FONT + max((tile.height for _, tiles in row for tile in tiles), default=0) for row in rows]

    width = gap + min(columns, len(drawn)) * (group_width + gap)
    board = Image.new("RGB", (width, gap + sum(heights) + SHEET_GAP * len(rows)), WHITE)
    draw, top = ImageDraw.Draw(board), SHEET_GAP
    for row, height in zip(rows, heights, strict=True):
        for column, (label, tiles) in enumerate(row):
            left = gap + column * (group_width + gap)
            draw_text(draw, (left, top + LABEL_FONT // 2), label, INK, LABEL_FONT, bold=True)
            for index, tile in enumerate(tiles):
                board.paste(tile, (left + index * step, top + 2 * LABEL_FONT))
        top += height + SHEET_GAP
    return board


def _tile(tile: dict[str, Any]) -> Image.Image:
    image = tile["image"].convert("RGB")
    scale = TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    masks = np.asarray(tile["masks"], dtype=bool)
    picture = painted(fitted(image, size), masks, np.zeros(image.size[::-1], dtype=bool), "no mask")
    colour = GOOD if tile["is_right"] else POOR
    ImageDraw.Draw(picture).rectangle((0, 0, size[0] - 1, size[1] - 1), outline=colour, width=FRAME)
    caption = draw_caption([(tile["question"], INK, False), (tile["note"], colour, True)], TILE, TILE_FONT)
    drawn = Image.new("RGB", (TILE, size[1] + caption.height), WHITE)
    drawn.paste(picture, ((TILE - size[0]) // 2, 0))
    drawn.paste(caption, (0, size[1]))
    return drawn
