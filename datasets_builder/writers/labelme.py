"""Write a data set as LabelMe files.

    images/1.jpg
    images/1.json       a polygon for each part of an object

Holes are joined to the outline, see `outlines.joined`: LabelMe's mask shapes are exact too, but cannot be edited. Parts
of one object have the same `group_id`. The description of a shape is "score 0.93".
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .exported import DatasetWriter, ExportedObject, ExportedPhoto, accept_all
from .outlines import outlines

IMAGES = "images"
VERSION = "5.5.0"  # of LabelMe, whose fields are written


def write(folder: Path, photos: Iterable[ExportedPhoto], names: list[str], tolerance: float = 0.0) -> list[str]:
    """Write a JSON file for each photo. A photo without objects has a file without shapes."""
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    for photo in photos:
        shapes = []
        for number, thing in enumerate(photo.objects, start=1):
            polygons = outlines(thing.mask(), tolerance)
            shapes += [_shape(thing, polygon.tolist(), number if len(polygons) > 1 else None) for polygon in polygons]
        content = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": photo.file_name,
            "imageData": None,
            "imageHeight": photo.size[0],
            "imageWidth": photo.size[1],
        }
        text = json.dumps(content, ensure_ascii=False)
        (folder / IMAGES / f"{photo.stem}.json").write_text(text + "\n", encoding="utf-8")
    return []


def _shape(thing: ExportedObject, points: list[list[int]], group: int | None) -> dict[str, Any]:
    return {
        "label": thing.name,
        "points": points,
        "group_id": group,
        "description": f"score {thing.score:.2f}",
        "shape_type": "polygon",
        "flags": {},
        "mask": None,
    }


LABELME = DatasetWriter(
    title="LabelMe",
    photos=IMAGES,
    is_upright=False,
    refusal=accept_all,
    write=write,
    next_step="Run `labelme {folder}/images`, correct the shapes, and train with --dataset folder --data_dir {folder}.",
)
