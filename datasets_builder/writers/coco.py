"""Write a data set as COCO instances JSON.

    images/1.jpg
    annotations/instances_train.json

Masks are polygons, also those with holes (see `outlines.joined`). RLE is exact too, but the converter of Label Studio
fails on it, and reads only the first polygon of an object. Each annotation has the field `score`.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from pycocotools import mask as coco_mask

from .exported import DatasetWriter, ExportedObject, ExportedPhoto, accept_all
from .outlines import outlines

ANNOTATIONS = "annotations/instances_train.json"
SCORE_DIGITS = 4


def write(folder: Path, photos: Iterable[ExportedPhoto], names: list[str], tolerance: float = 0.0) -> list[str]:
    """Write the JSON file, one record per line. Annotations are not held in memory."""
    path = folder / ANNOTATIONS
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = {name: number for number, name in enumerate(names, start=1)}
    images = []
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info": {"description": "answers of Gemma-LISA, not yet corrected"}, "licenses": [],\n')
        file.write('"annotations": [')
        number = 0
        for image_id, photo in enumerate(photos, start=1):
            height, width = photo.size
            images.append({"id": image_id, "file_name": photo.file_name, "width": width, "height": height})
            for thing in photo.objects:
                number += 1
                facts = {"id": number, "image_id": image_id, "category_id": ids[thing.name], "iscrowd": 0}
                _write_line(file, facts | _shape(thing, tolerance), number == 1)
        file.write('],\n"images": [')
        for image in images:
            _write_line(file, image, image["id"] == 1)
        file.write('],\n"categories": [')
        for name, category_id in ids.items():
            _write_line(file, {"id": category_id, "name": name, "supercategory": ""}, category_id == 1)
        file.write("]}\n")
    return []


def _shape(thing: ExportedObject, tolerance: float) -> dict[str, Any]:
    return {
        "segmentation": [polygon.ravel().tolist() for polygon in outlines(thing.mask(), tolerance)],
        "area": int(coco_mask.area(thing.rle)),
        "bbox": [int(number) for number in coco_mask.toBbox(thing.rle)],
        "score": round(thing.score, SCORE_DIGITS),
    }


def _write_line(file: TextIO, record: dict[str, Any], is_first: bool) -> None:
    file.write(("\n" if is_first else ",\n") + json.dumps(record, ensure_ascii=False))


COCO = DatasetWriter(
    title="COCO",
    photos="images",
    is_upright=False,
    refusal=accept_all,
    write=write,
    # Tested with label-studio-converter 0.0.59
    next_step="Zip the content of {folder} and import it into a CVAT project (COCO 1.0), or convert it for Label "
    f"Studio with `label-studio-converter import coco -i {{folder}}/{ANNOTATIONS} -o tasks.json`. Correct it, export "
    "it, and train with --dataset folder --data_dir FOLDER.",
)
