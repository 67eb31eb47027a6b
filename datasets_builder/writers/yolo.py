"""Write a data set as YOLO segmentation labels, as Ultralytics reads them.

    images/train/1.jpg
    labels/train/1.txt      a line for each object: class number from 0, then x and y as fractions of width and height
    data.yaml               names of the classes

A line is one polygon, so the parts and holes of an object are joined by bridges, see `outlines.joined`. The format has
no scores.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml

from .exported import DatasetWriter, ExportedPhoto, accept_all
from .outlines import joined, outlines

IMAGES, LABELS, OPTIONS = "images/train", "labels/train", "data.yaml"
MIN_DIGITS = 6  # of a fraction


def write(folder: Path, photos: Iterable[ExportedPhoto], names: list[str], tolerance: float = 0.0) -> list[str]:
    """Write the files of labels and data.yaml. A photo without objects has an empty file."""
    numbers = {name: number for number, name in enumerate(names)}
    (folder / LABELS).mkdir(parents=True, exist_ok=True)
    for photo in photos:
        lines = []
        for thing in photo.objects:
            fractions = joined(outlines(thing.mask(), tolerance)) / photo.size[::-1]
            # Two digits more than the side, so that rounding moves a point by at most 1/200 pixel
            digits = max(MIN_DIGITS, len(str(max(photo.size))) + 2)
            points = np.char.mod(f"%.{digits}f", fractions.ravel())
            lines.append(f"{numbers[thing.name]} {' '.join(points.tolist())}\n")
        (folder / LABELS / f"{photo.stem}.txt").write_text("".join(lines), encoding="utf-8")
    # Without `path`, Ultralytics takes the folder of data.yaml
    options = {"train": IMAGES, "names": dict(enumerate(names))}
    text = yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
    (folder / OPTIONS).write_text(text, encoding="utf-8")
    return []


YOLO = DatasetWriter(
    title="YOLO",
    photos=IMAGES,
    is_upright=True,
    refusal=accept_all,
    write=write,
    next_step="Zip the content of {folder} and import it into a CVAT project (Ultralytics YOLO Segmentation 1.0). "
    "Correct it, export it, and train with --dataset folder --data_dir FOLDER.",
)
