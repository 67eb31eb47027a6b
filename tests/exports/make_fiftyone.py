"""Write tests/exports/fiftyone/: two drawn photos with objects, exported by FiftyOne in several formats.

The exports were written with FiftyOne 1.22.1 on Python 3.11. FiftyOne is no dependency of the project. Its exporters
run without its database:

    pip install --target /tmp/fiftyone --no-deps fiftyone==1.22.1 fiftyone-brain==0.27.0 voxel51-eta==0.17.0
    pip install --target /tmp/fiftyone (the other requirements of fiftyone, except fiftyone-db)
    PYTHONPATH=/tmp/fiftyone FIFTYONE_DISABLE_SERVICES=1 python tests/exports/make_fiftyone.py

expected.json contains the mask of each class in each photo, as COCO's uncompressed RLE. FiftyOne traces masks, so its
polygons differ from them by up to a pixel at the outline. The hole of a plate is a second polygon, and `area` is the
area of the box. It writes RLE only for crowds: the plates of `coco_crowds`.
"""

import json
import shutil
from pathlib import Path

import fiftyone as fo
import fiftyone.utils.coco as coco
import fiftyone.utils.cvat as cvat
import fiftyone.utils.data as data
import fiftyone.utils.yolo as yolo
import numpy as np
from PIL import Image, ImageDraw

FOLDER = Path(__file__).parent / "fiftyone"
CLASSES = ("mug", "plate")
WIDTH, HEIGHT = 64, 48
METADATA = fo.ImageMetadata(width=WIDTH, height=HEIGHT, num_channels=3)


def drawn(shape: str, *corners: int) -> np.ndarray:
    """Return the pixels (HEIGHT, WIDTH) bool of a shape of ImageDraw."""
    picture = Image.new("1", (WIDTH, HEIGHT))
    getattr(ImageDraw.Draw(picture), shape)(corners, fill=1)
    return np.array(picture)


PHOTOS = {
    "1": [
        ("mug", drawn("rectangle", 4, 6, 15, 19)),
        ("mug", drawn("polygon", 20, 4, 34, 4, 27, 24)),
        ("plate", drawn("ellipse", 34, 20, 60, 44) & ~drawn("ellipse", 42, 28, 52, 36)),
    ],
    "2": [("plate", drawn("ellipse", 6, 6, 40, 40))],
}


def counts(mask: np.ndarray) -> list[int]:
    """Return the run lengths of a mask in column order, beginning with zeros."""
    down = np.concatenate([[False], mask.T.ravel()])
    return np.diff(np.concatenate([[0], np.flatnonzero(down[1:] != down[:-1]), [mask.size]])).tolist()


def detection(name: str, mask: np.ndarray) -> fo.Detection:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    box = [left / WIDTH, top / HEIGHT, (right - left) / WIDTH, (bottom - top) / HEIGHT]
    return fo.Detection(label=name, bounding_box=box, mask=mask[top:bottom, left:right])


def export(exporter, photos: dict[str, Path], label_of) -> None:
    with exporter:
        for stem, path in photos.items():
            exporter.export_sample(str(path), label_of(PHOTOS[stem]), metadata=METADATA)


def detections(objects: list) -> fo.Detections:
    return fo.Detections(detections=[detection(name, mask) for name, mask in objects])


def polylines(objects: list) -> fo.Polylines:
    return fo.Polylines(polylines=[detection(name, mask).to_polyline(tolerance=1) for name, mask in objects])


def segmentation(objects: list) -> fo.Segmentation:
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for name, mask in objects:
        labels[mask] = CLASSES.index(name) + 1
    return fo.Segmentation(mask=labels)


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    photos, expected = {}, {}
    for stem, objects in PHOTOS.items():
        picture, photos[stem], expected[stem] = Image.new("RGB", (WIDTH, HEIGHT), "white"), FOLDER / f"{stem}.png", {}
        for name, mask in objects:
            ImageDraw.Draw(picture).bitmap((0, 0), Image.fromarray(mask), ("red", "blue")[CLASSES.index(name)])
            whole = expected[stem].get(name, np.zeros_like(mask)) | mask
            expected[stem][name] = whole
        FOLDER.mkdir(parents=True, exist_ok=True)
        picture.save(photos[stem])
    names = list(CLASSES)
    place = {name: str(FOLDER / name) for name in ("coco_polygons", "coco_crowds", "yolov5", "segmentation", "cvat")}
    exporter = coco.COCODetectionDatasetExporter
    export(exporter(export_dir=place["coco_polygons"], classes=names, tolerance=1), photos, detections)
    export(exporter(export_dir=place["coco_crowds"], classes=names, iscrowd="crowd"), photos, crowds)
    export(yolo.YOLOv5DatasetExporter(export_dir=place["yolov5"], split="val", classes=names), photos, polylines)
    export(data.ImageSegmentationDirectoryExporter(export_dir=place["segmentation"]), photos, segmentation)
    export(cvat.CVATImageDatasetExporter(export_dir=place["cvat"]), photos, polylines)
    for path in photos.values():
        path.unlink()
    settings = FOLDER / "yolov5" / "dataset.yaml"  # contains the path on the machine of the export
    settings.write_text(settings.read_text().replace(str(FOLDER), "/data/fiftyone"))
    rle = {
        stem: {"masks": {name: {"size": [HEIGHT, WIDTH], "counts": counts(mask)} for name, mask in masks.items()}}
        for stem, masks in expected.items()
    }
    (FOLDER / "expected.json").write_text(json.dumps(rle) + "\n", encoding="utf-8")


def crowds(objects: list) -> fo.Detections:
    """Return the objects with the plates as crowds."""
    found = detections(objects)
    for one in found.detections:
        one["crowd"] = int(one.label == "plate")
    return found


if __name__ == "__main__":
    main()
