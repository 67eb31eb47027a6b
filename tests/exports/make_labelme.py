"""Write tests/exports/labelme/: two drawn photos with shapes, saved by LabelMe.

The files were written with the functions of LabelMe 6.3.1 (Pillow 12.3.0 on Python 3.11). LabelMe is no dependency of
the project. Its package imports Qt and ONNX Runtime, which these functions do not use, so they are replaced here:

    pip download --no-deps labelme==6.3.1
    unzip labelme-*.whl -d /tmp/labelme
    pip install --target /tmp/labelme numpy pillow
    PYTHONPATH=/tmp/labelme python tests/exports/make_labelme.py

expected.json contains the mask of each label in each photo as LabelMe draws it, as COCO's uncompressed RLE. LabelMe
fills the pixels under the outline as well, so its masks are up to a pixel larger.
"""

import json
import shutil
import sys
from pathlib import Path
from unittest.mock import MagicMock

UNUSED = "onnxruntime PyQt5 imgviz imgviz.io loguru tifffile".split()
sys.modules |= {name: MagicMock() for name in UNUSED}

import numpy as np  # noqa: E402
from labelme import LabelFile, utils  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

FOLDER = Path(__file__).parent / "labelme"
WIDTH, HEIGHT = 64, 48


def shape(label: str, points: list, kind: str = "polygon", mask: np.ndarray | None = None, **fields) -> dict:
    record = {"label": label, "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {}}
    return record | {"mask": None if mask is None else utils.img_arr_to_b64(mask.astype(np.uint8))} | fields


def ring(radius: int) -> np.ndarray:
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (rows**2 + columns**2 <= radius**2) & (rows**2 + columns**2 > (radius / 2) ** 2)


PHOTOS = {
    "train/1": [
        shape("mug", [[4, 4], [20, 4], [20, 20], [4, 20]]),
        shape("plate", [[48, 30], [48, 18]], "circle"),
        shape("spoon", [[8, 26], [22, 44]], "rectangle"),
        shape("spoon", [[1, 46], [60, 47]], "line"),
    ],
    "val/2": [
        shape("plate", [[4, 10], [32, 38]], "mask", ring(14), group_id=1),
        shape("spoon", [[48, 4], [60, 16], [48, 28], [36, 16]], "oriented_rectangle"),
        shape("mug", [[40, 40]], "point"),
    ],
}


def mask_of(one: dict) -> np.ndarray:
    """Return the pixels (HEIGHT, WIDTH) bool of a shape, as LabelMe draws it."""
    if one["shape_type"] != "mask":
        return utils.shape_to_mask((HEIGHT, WIDTH), one["points"], one["shape_type"])
    pixels = np.zeros((HEIGHT, WIDTH), dtype=bool)
    (left, top), (right, bottom) = one["points"]
    pixels[top : bottom + 1, left : right + 1] = utils.img_b64_to_arr(one["mask"])
    return pixels


def counts(mask: np.ndarray) -> list[int]:
    """Return the run lengths of a mask in column order, beginning with zeros."""
    down = np.concatenate([[False], mask.T.ravel()])
    edges = np.flatnonzero(down[1:] != down[:-1])
    return np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    expected = {}
    for name, shapes in PHOTOS.items():
        split, stem = name.split("/")
        picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
        draw, masks = ImageDraw.Draw(picture), {}
        for one in shapes:
            if one["shape_type"] not in ("line", "point"):
                masks[one["label"]] = mask_of(one)
                draw.bitmap((0, 0), Image.fromarray(masks[one["label"]]), "navy")
        photo, file = FOLDER / "images" / split / f"{stem}.png", FOLDER / "annotations" / split / f"{stem}.json"
        for path in (photo, file):
            path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(photo)
        data = LabelFile.load_image_file(str(photo)) if split == "val" else None
        image_path = f"..\\..\\images\\{split}\\{photo.name}"  # as on Windows
        LabelFile().save(str(file), shapes, image_path, HEIGHT, WIDTH, data)
        LabelFile(str(file))  # LabelMe can read it
        runs = {label: {"size": [HEIGHT, WIDTH], "counts": counts(mask)} for label, mask in masks.items()}
        expected[stem] = {"subset": split, "masks": runs}
    (FOLDER / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
