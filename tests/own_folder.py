"""Write a user's own folder for tests: photos, masks and LabelMe files."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.rows import decode_mask

SIZE = (8, 6)  # width, height


def photo(root, name, size=SIZE, color="red", **options):
    path = root / (name if "/" in name else f"images/{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)


def turned(orientation):
    """EXIF data with this orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def numbers(**places):
    """Return a label map of SIZE. n3=slice(0, 2) sets number 3 in the first two rows."""
    labels = np.zeros(SIZE[::-1], dtype=np.uint8)
    for number, rows in places.items():
        labels[rows] = int(number[1:])
    return labels


def mask(root, name, labels, mode=None):
    path = root / (name if "/" in name else f"masks/{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(labels)
    (picture.convert(mode) if mode else picture).save(path)


def write(root, name, text, encoding="utf-8"):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text.encode(encoding))


def shape(label, points, kind="polygon"):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}}


def drawn(label, box, pixels, cut=None):
    """Return a shape of LabelMe's AI tools: a mask for a box from its first to its last pixel.

    cut: number of bytes of the PNG to keep; None for all.
    """
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    return shape(label, box, "mask") | {"mask": base64.b64encode(png.getvalue()[:cut]).decode()}


def labelme(root, name, shapes, size=SIZE):
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "1.jpg", "imageData": None}
    content |= {"imageHeight": size[1], "imageWidth": size[0]}
    write(root, name, json.dumps(content))


def load(root, split="train", **options):
    return load_rows("folder", split, str(root), options)


def areas(row):
    """Return the number of pixels of each target by its question; None for a target without a mask."""
    return {
        target["texts"][0]: int(decode_mask(target["masks"][0], "").sum()) if target["masks"] else None
        for target in row["targets"]
    }


def refusal(root, **options):
    """Return the error of loading the folder, which must be one line."""
    with pytest.raises(ValueError) as refused:
        load(root, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)
