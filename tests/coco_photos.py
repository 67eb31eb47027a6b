"""A folder of images with a COCO JSON file, for tests that write and change it."""

import copy
import json

import numpy as np
from PIL import Image

from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.rows import load_image, target_masks

HEIGHT, WIDTH = 24, 32


def box(left, top, right, bottom):
    """Return the polygon of a box with the pixels left..right - 1 and top..bottom - 1."""
    return [left, top, right, top, right, bottom, left, bottom]


def box_mask(left, top, right, bottom, size=(HEIGHT, WIDTH)):
    mask = np.zeros(size, dtype=np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


LOW, HIGH, CORNER = (4, 16, 10, 20), (20, 2, 28, 8), (0, 0, 3, 3)


def annotation(number, segmentation, category=1, image=1, **more):
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, **more}


CATEGORIES = [{"id": 1, "name": "trash_can"}, {"id": 2, "name": "cat"}, {"id": 9, "name": "cars, parked"}]


class Photos:
    """A folder of images with result.json, whose content tests can change."""

    def __init__(self, root, n_images=1):
        self.root = root
        (root / "images").mkdir(parents=True)
        self.content = {
            "images": [
                {"id": at, "file_name": f"images/{at}.png", "height": HEIGHT, "width": WIDTH}
                for at in range(1, n_images + 1)
            ],
            "annotations": [
                annotation(1, [box(*LOW)]),
                annotation(2, [box(*HIGH)]),
                annotation(3, [box(*CORNER)], category=2),
            ],
            "categories": copy.deepcopy(CATEGORIES),  # tests change it
        }
        for at in range(1, n_images + 1):
            Image.new("RGB", (WIDTH, HEIGHT), (40 * at, 90, 30)).save(root / "images" / f"{at}.png")

    def load(self, split="train", file="result.json", **options):
        (self.root / file).parent.mkdir(exist_ok=True)
        (self.root / file).write_text(json.dumps(self.content))
        return load_rows("coco_instances", split, str(self.root), options)


def masks_of(row):
    """Return the masks of each text on the upright image, (K, H, W) uint8 with 255 for ignored pixels."""
    image = load_image(row["image"], row["source"])
    size = (image.height, image.width)
    return {target["texts"][0]: target_masks(target, size, row["source"]) for target in row["targets"]}
