"""Write tests/exports/datumaro/: three drawn photos with objects, exported by Datumaro in several formats.

The exports were written with Datumaro 1.13.12, Pillow 12.3.0 and pycocotools 2.0.11 on Python 3.11. Datumaro is no
dependency of the project; write them again with it in a folder of its own:

    pip install --target /tmp/datumaro datumaro==1.13.12
    PYTHONPATH=/tmp/datumaro python tests/exports/make_datumaro.py

expected.json contains the subset of each photo and the mask of each class in it, as compressed COCO RLE. `yolo` and
`yolo_ultralytics` are missing: this version exports only boxes in them.
"""

import json
import shutil
from pathlib import Path

import numpy as np
from datumaro.components.annotation import Label, Mask, Polygon, PolyLine
from datumaro.components.dataset import Dataset
from datumaro.components.dataset_base import DatasetItem
from datumaro.components.media import Image
from PIL import Image as Picture
from PIL import ImageDraw
from pycocotools import mask as coco_mask

FOLDER = Path(__file__).parent / "datumaro"
OUTLINE_FORMATS = ("datumaro", "coco_instances", "cvat", "label_me")
MASK_FORMATS = ("coco_panoptic", "voc_segmentation")  # here, Datumaro does not export polygons
MUG, PLATE = 0, 1  # numbers of the classes
NAMES = ("mug", "plate")
WIDTH, HEIGHT = 64, 48


def disk(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= radius**2


def box(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


# Objects of each photo: its subset, then (class, polygons or mask)
PHOTOS = {
    "1": (
        "train",
        [(MUG, [box(4, 6, 16, 20)]), (MUG, [[20, 6, 30, 6, 25, 20]]), (PLATE, disk(44, 30, 12) & ~disk(44, 30, 5))],
    ),
    "2": ("train", [(MUG, disk(20, 20, 9) | disk(28, 20, 9))]),
    "3": ("val", [(PLATE, [box(6, 8, 24, 18), box(34, 8, 58, 40)]), (MUG, [[10.5, 26, 26.5, 30, 18, 44]])]),
}


def mask_of(drawn: list | np.ndarray) -> np.ndarray:
    """Return the pixels (HEIGHT, WIDTH) bool of polygons or of a mask."""
    if isinstance(drawn, np.ndarray):
        return drawn
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(drawn, HEIGHT, WIDTH))).astype(bool)


def write_photo(path: Path, objects: list) -> None:
    picture = Picture.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    for number, drawn in objects:
        draw.bitmap((0, 0), Picture.fromarray(mask_of(drawn)), ("red", "blue")[number])
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def annotations_of(objects: list) -> list:
    """Return Datumaro's annotations. Polygons of one object are in one group."""
    found = []
    for group, (number, drawn) in enumerate(objects, start=1):
        if isinstance(drawn, np.ndarray):
            found.append(Mask(drawn, label=number, group=group, z_order=group))
        else:
            found += [Polygon(part, label=number, group=group, z_order=group) for part in drawn]
    return [*found, Label(MUG), PolyLine([1, 1, 9, 9], label=MUG)]  # annotations without an area


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    items, expected = [], {}
    for stem, (subset, objects) in PHOTOS.items():
        photo = FOLDER / "photos" / f"{stem}.png"
        write_photo(photo, objects)
        media = Image.from_file(str(photo), size=(HEIGHT, WIDTH))
        items.append(DatasetItem(stem, subset=subset, media=media, annotations=annotations_of(objects)))
        expected[stem] = {"subset": subset, "masks": {}}
        for number, name in enumerate(NAMES):
            if same := [mask_of(drawn) for label, drawn in objects if label == number]:
                rle = coco_mask.encode(np.asfortranarray(np.any(same, axis=0), dtype=np.uint8))
                expected[stem]["masks"][name] = {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode("ascii")}
    for name in (*OUTLINE_FORMATS, *MASK_FORMATS):
        dataset = Dataset.from_iterable(items, categories=list(NAMES))
        if name in MASK_FORMATS:
            dataset.transform("polygons_to_masks")
        dataset.export(str(FOLDER / name), name, save_media=True, image_ext=".png")
    shutil.rmtree(FOLDER / "photos")
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
