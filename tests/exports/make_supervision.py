"""Write tests/exports/supervision_yolo and supervision_voc with supervision, a tool that exports data sets.

    pip install --target /tmp/supervision supervision==0.31.2
    PYTHONPATH=/tmp/supervision python tests/exports/make_supervision.py

Written with supervision 0.31.2 (numpy 2.4.6, Pillow 13.0.0, without OpenCV) on Python 3.11. The masks that were
exported are in masks/: one PNG for each object, named by the photo, the object and its class.
"""

import shutil
from pathlib import Path

import numpy as np
import supervision
from PIL import Image

HERE = Path(__file__).parent
WIDTH, HEIGHT = 96, 72
CLASSES = ["mug", "steel_plate"]


def scenes() -> dict[str, list[tuple[int, np.ndarray]]]:
    """Return the objects of each photo: class and mask (H, W) bool. One has a hole, one has two parts."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    disk = (columns - 30) ** 2 + (rows - 34) ** 2 <= 22**2
    ring = disk & ((columns - 30) ** 2 + (rows - 34) ** 2 > 10**2)
    box = (columns >= 60) & (columns < 88) & (rows >= 8) & (rows < 30)
    parts = ((columns >= 58) & (columns < 70) | (columns >= 78) & (columns < 92)) & (rows >= 40) & (rows < 66)
    return {"1.jpg": [(0, ring), (1, box)], "2.jpg": [(1, parts)], "3.jpg": []}


def main() -> None:
    folder = HERE / "supervision_masks"
    for name in ("supervision_masks", "supervision_yolo", "supervision_voc"):
        shutil.rmtree(HERE / name, ignore_errors=True)
    folder.mkdir()
    photos = HERE / "photos"
    photos.mkdir(exist_ok=True)
    annotations = {}
    for name, objects in scenes().items():
        pixels = np.full((HEIGHT, WIDTH, 3), 90, dtype=np.uint8)
        for kind, mask in objects:
            pixels[mask] = (200, 60 + 90 * kind, 40)
        Image.fromarray(pixels).save(photos / name, quality=60)
        path = str(photos / name)
        if not objects:
            annotations[path] = supervision.Detections.empty()
            continue
        masks = np.stack([mask for _, mask in objects])
        annotations[path] = supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks).astype(np.float32),
            mask=masks,
            class_id=np.array([kind for kind, _ in objects]),
        )
        for number, (kind, mask) in enumerate(objects):
            Image.fromarray(mask).save(folder / f"{Path(name).stem}_{number}_{CLASSES[kind]}.png")
    exported = supervision.DetectionDataset(classes=CLASSES, images=list(annotations), annotations=annotations)
    yolo, voc = HERE / "supervision_yolo", HERE / "supervision_voc"
    exported.as_yolo(str(yolo / "images"), str(yolo / "labels"), str(yolo / "data.yaml"))
    exported.as_pascal_voc(str(voc / "images"), str(voc / "annotations"))
    shutil.rmtree(photos)


if __name__ == "__main__":
    main()
