"""COCO results: a JSON list with one record per mask.

    [{"question_id": "reason_seg/val/1#0", "category_id": 1, "segmentation": {"size": [4, 4], "counts": "04L"},
      "score": 0.9}]

The question of a record is named by the first of these keys that the record has:

- `question_id`: its id, or its number (`index` in the file of --write_questions);
- `image_id`: the same, for tools that write no other keys.

`id` is the number of the annotation, as pycocotools numbers results, and is not used. Several records of a question are
its masks. `segmentation` is RLE with compressed (str) or uncompressed (list) counts, or polygons. `score` must be in
all records or in none. `category_id` and `bbox` are not used.

A question without a record is missing. This format cannot say that nothing is in the image, except by --missing zero.
"""

from pathlib import Path
from typing import Any

from gemma_lisa.safety.short_text import show

from .entries import Entry, check_scores, id_of, place_of

ID_KEYS = ("question_id", "image_id")


def read_coco_results(records: list[Any], path: Path) -> list[Entry]:
    """Return an entry per question.

    Args:
        records: content of the file.
        path: of the file, for errors.

    Raises:
        ValueError: a record is not valid.
    """
    entries: dict[str | int, Entry] = {}
    for number, record in enumerate(records):
        where = f"{path}: record {number}"
        if not isinstance(record, dict) or "segmentation" not in record:
            raise ValueError(f"{where} must be an object with the key segmentation, got {show(record)}.")
        name = id_of(record, where, ID_KEYS)
        entry = entries.setdefault(name, Entry(place_of(path, name), name, [], []))
        entry.masks.append(record["segmentation"])
        if "score" in record:
            entry.scores += check_scores([record["score"]], 1, f"{where} ({name})")
        if ("score" in record) != ("score" in records[0]):
            raise ValueError(f"{where} ({name}): either all records must have a score, or none.")
    return list(entries.values())
