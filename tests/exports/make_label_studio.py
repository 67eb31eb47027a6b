"""Write tests/exports/label_studio/ with Label Studio's own writers of masks and polygons.

Made with label_studio_sdk 2.1.2, which is not a dependency of this project:

    pip install --target /tmp/label_studio --no-deps label_studio_sdk==2.1.2
    PYTHONPATH=/tmp/label_studio python tests/exports/make_label_studio.py

Only its module `converter/brush.py` is loaded: the package needs many others. The tasks are as the server exports them.
masks.npz contains the mask of each object, drawn by the code below.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent / "label_studio"
SIZE = (30, 40)  # height, width


def load_brush():
    """Return the module label_studio_sdk.converter.brush without the rest of its package."""
    package = importlib.util.find_spec("label_studio_sdk").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("brush", Path(package) / "converter" / "brush.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn_masks() -> dict[str, np.ndarray]:
    """Return the masks (H, W) bool by name."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    ring = (rows - 12) ** 2 + (columns - 20) ** 2
    box = np.zeros(SIZE, dtype=bool)
    box[5:15, 3:20] = True
    return {"mug": (ring < 81) & (ring > 16), "plate": box, "corner": (rows + columns) < 9}


def result(number: str, kind: str, value: dict) -> dict:
    shared = {"from_name": kind, "to_name": "image", "type": kind, "origin": "manual", "image_rotation": 0}
    return {"id": number, "original_width": SIZE[1], "original_height": SIZE[0], **shared, "value": value}


def main() -> None:
    brush, masks = load_brush(), drawn_masks()
    (FOLDER / "images").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1], "red").save(FOLDER / "images" / "scene 1.jpg")
    Image.fromarray(masks["corner"].astype(np.uint8) * 255).save(FOLDER / "corner.png")
    corner = brush.image2annotation(str(FOLDER / "corner.png"), "corner", "brushlabels", "image")["result"]
    (FOLDER / "corner.png").unlink()
    corner[0]["id"] = "c"  # otherwise random
    percent = [[100 * x / SIZE[1], 100 * y / SIZE[0]] for x, y in ((3, 5), (20, 5), (20, 15), (3, 15))]
    soft = brush.mask2rle(np.where(masks["mug"], 160, 30).astype(np.uint8))  # as a brush with soft edges
    results = [
        result("a", "brushlabels", {"format": "rle", "rle": soft, "brushlabels": ["mug"]}),
        result("b", "polygonlabels", {"points": percent, "closed": True, "polygonlabels": ["plate"]}),
        *corner,
    ]
    annotation = {"id": 7, "completed_by": 1, "result": results, "was_cancelled": False, "ground_truth": False}
    data = {"image": "/data/upload/1/cb0618f6-scene_1.jpg"}
    task = {"id": 3, "annotations": [annotation], "drafts": [], "predictions": [], "data": data, "meta": {}}
    (FOLDER / "project-1-at-2026-01-01.json").write_text(json.dumps([task]), encoding="utf-8")
    np.savez_compressed(FOLDER / "masks.npz", **masks)


if __name__ == "__main__":
    main()
