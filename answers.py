"""An answer as plain data: text, and each mask with its phrase, score, area, box and COCO RLE."""

from pathlib import Path
from typing import Any

import numpy as np

from .datasets_builder.rows import encode_mask


def record(image: Path | str, query: str, answer: dict[str, Any]) -> dict[str, Any]:
    """An answer for the JSON file; a box is (x, y, width, height) in pixels."""
    masks = []
    for mask, score, phrase in zip(answer["masks"].numpy(), answer["scores"].tolist(), answer["phrases"], strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = None
        if len(rows):
            left, top = int(columns[0]), int(rows[0])
            box = [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
        area = int(np.count_nonzero(mask))
        masks.append({"phrase": phrase, "score": round(score, 4), "area": area, "box": box, "rle": encode_mask(mask)})
    texts = {name: answer[name] for name in ("text", "raw_text", "complete")}
    return {"image": str(image), "query": query, **texts, "masks": masks}
