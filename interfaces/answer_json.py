"""Answers as JSON: the text, and each mask with its phrase, score, area, box, RLE and polygons."""

import json
from pathlib import Path
from typing import Any

import contourpy
import numpy as np

from gemma_lisa.answers_gemma_lisa import mask_status
from gemma_lisa.datasets_builder.rows import encode_mask

from .answer_text import status_of


def record(image: Path | str, query: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer as plain data for a JSON file.

    Args:
        image: path or name of the image.
        query: question that was asked.
        answer: as returned by the processor's `post_process_segmentation`.

    Returns:
        dict of image, query, text, raw_text, complete, status (see `answer_status`) and masks. Each mask has
        - phrase: what the mask shows, or "".
        - score: SAM's own estimate of its IoU.
        - status: "found", "low confidence" or "nothing found" (an empty mask).
        - area: in pixels.
        - box: left, top, width, height in pixels, or None for an empty mask.
        - rle: compressed RLE of COCO.
        - polygons: see `polygons`.
    """
    masks = []
    for mask, score, phrase in zip(answer["masks"].numpy(), answer["scores"].tolist(), answer["phrases"], strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = None
        if len(rows):
            left, top = int(columns[0]), int(rows[0])
            box = [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
        area = int(np.count_nonzero(mask))
        masks.append(
            {
                "phrase": phrase,
                "score": round(score, 4),
                "status": mask_status(area, score),
                "area": area,
                "box": box,
                "rle": encode_mask(mask),
                "polygons": polygons(mask),
            }
        )
    texts = {name: answer[name] for name in ("text", "raw_text", "complete")}
    return {"image": str(image), "query": query, **texts, "status": status_of(answer), "masks": masks}


def json_text(records: list[dict[str, Any]]) -> str:
    """Return answers as a JSON array with one line per answer and, below it, one line per mask.

    Args:
        records: as returned by `record`.
    """
    return "[\n" + ",\n".join(map(_lines_of, records)) + "\n]\n"


def _lines_of(answer: dict[str, Any]) -> str:
    head = json.dumps({name: value for name, value in answer.items() if name != "masks"}, ensure_ascii=False)
    masks = ",\n".join(f"    {json.dumps(mask, ensure_ascii=False)}" for mask in answer["masks"])
    return f'  {head[:-1]}, "masks": [' + (f"\n{masks}\n  " if masks else "") + "]}"


def polygons(mask: np.ndarray) -> list[list[list[list[float]]]]:
    """Return the outline of a mask (H, W) as the coordinates of a GeoJSON MultiPolygon.

    Each polygon is a list of closed rings: the outer ring, then the holes. A ring is a list of x, y in pixels from the
    top left corner of the image. Corners of pixels are cut, so the polygons are approximate. The RLE is exact.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    top, left = rows[0], columns[0]
    # Only the bounding box is searched: most masks are small and photos are large
    padded = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype(np.float32)
    outlines = contourpy.contour_generator(z=padded, fill_type=contourpy.FillType.OuterOffset)
    # Grid points are the centres of pixels, and the first one is in the padding
    offset = (left - 0.5, top - 0.5)
    return [
        [(points[start:end] + offset).tolist() for start, end in zip(offsets, offsets[1:], strict=False)]
        for points, offsets in zip(*outlines.filled(0.5, 2.0), strict=True)
    ]
