"""An answer as plain data, and as the lines of a legend: text, and each mask with its phrase, score, area, place."""

from pathlib import Path
from typing import Any

import contourpy
import numpy as np

from gemma_lisa.datasets_builder.rows import encode_mask


def record(image: Path | str, query: str, answer: dict[str, Any]) -> dict[str, Any]:
    """An answer for a JSON file.

    Args:
        image, query: what was asked.
        answer: as of the processor's `post_process_segmentation`.

    Returns:
        image, query, text, raw_text, complete and masks: of each phrase, score (SAM's own estimate of its IoU), area in
        pixels, box (left, top, width, height in pixels; None of an empty mask), rle (COCO's, compressed) and polygons
        (see `polygons`).
    """
    masks = []
    for mask, score, phrase in zip(answer["masks"].numpy(), answer["scores"].tolist(), answer["phrases"], strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = None
        if len(rows):
            left, top = int(columns[0]), int(rows[0])
            box = [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
        masks.append(
            {
                "phrase": phrase,
                "score": round(score, 4),
                "area": int(np.count_nonzero(mask)),
                "box": box,
                "rle": encode_mask(mask),
                "polygons": polygons(mask),
            }
        )
    texts = {name: answer[name] for name in ("text", "raw_text", "complete")}
    return {"image": str(image), "query": query, **texts, "masks": masks}


def polygons(mask: np.ndarray) -> list[list[list[list[float]]]]:
    """The outline of a mask (H, W) as the coordinates of GeoJSON's MultiPolygon.

    Polygons, each a list of closed rings of x, y in pixels from the image's upper left corner: the outer ring, then the
    holes. Corners of pixels are cut, so the RLE is exact and this is not.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    top, left = rows[0], columns[0]
    # Most things are small and photos are large, so only the mask's box is searched
    padded = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype(np.float32)
    outlines = contourpy.contour_generator(z=padded, fill_type=contourpy.FillType.OuterOffset)
    # Grid points are the centres of pixels, and the first is that of the padding
    offset = (left - 0.5, top - 0.5)
    return [
        [(points[start:end] + offset).tolist() for start, end in zip(offsets, offsets[1:], strict=False)]
        for points, offsets in zip(*outlines.filled(0.5, 2.0), strict=True)
    ]


def labels(query: str, answer: dict[str, Any]) -> list[str]:
    """A line for each mask of an answer: what it stands for, else the query, and SAM's own estimate of its IoU."""
    scores = answer["scores"].tolist()
    return [label_of(phrase or query, score) for phrase, score in zip(answer["phrases"], scores, strict=True)]


def label_of(name: str, score: float) -> str:
    return f"{name} ({score:.2f})"
