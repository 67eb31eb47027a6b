"""Write tests/exports/cvat/ with Datumaro's own exporter of "CVAT for images 1.1".

Made with datumaro 1.13.12, which is not a dependency of this project:

    pip install --target /tmp/datumaro datumaro==1.13.12
    PYTHONPATH=/tmp/datumaro python tests/exports/make_cvat.py

masks.npz contains the mask of each object, drawn by the code below.
"""

from pathlib import Path

import numpy as np
from datumaro.components.annotation import Bbox, Label, Mask, Points, Polygon, PolyLine, RotatedBbox
from datumaro.components.dataset import Dataset
from datumaro.components.dataset_base import DatasetItem
from datumaro.components.media import Image

FOLDER = Path(__file__).parent / "cvat"
SIZE = (30, 40)  # height, width


def drawn_masks() -> dict[str, np.ndarray]:
    """Return the masks (H, W) bool by name."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    ring = (rows - 12) ** 2 + (columns - 20) ** 2
    box = np.zeros(SIZE, dtype=bool)
    box[5:15, 3:20] = True
    return {"mug": (ring < 81) & (ring > 16), "plate": box, "corner": (rows + columns) < 9}


def item(name: str, subset: str, color: tuple[int, int, int]) -> DatasetItem:
    masks = drawn_masks()
    shapes = [
        Mask(masks["mug"], label=0, attributes={"color": "red"}, z_order=1),
        Polygon([3, 5, 20, 5, 20, 15, 3, 15], label=1),
        Mask(masks["corner"], label=2, z_order=-1),
        Bbox(1, 2, 10, 12, label=0),
        RotatedBbox(20, 15, 10, 6, 90, label=0),
        PolyLine([1, 1, 9, 9], label=0),
        Points([1, 1, 9, 9], label=0),
        Label(1),
    ]
    pixels = np.full((*SIZE, 3), color, dtype=np.uint8)
    return DatasetItem(id=name, subset=subset, media=Image.from_numpy(data=pixels), annotations=shapes)


def main() -> None:
    items = [item("a/mug 1", "train", (200, 30, 30)), item("2", "val", (30, 200, 30))]
    data_set = Dataset.from_iterable(items, categories=["mug", "plate", "corner"])
    data_set.export(str(FOLDER), "cvat", save_media=True, allow_undeclared_attrs=True)
    np.savez_compressed(FOLDER / "masks.npz", **drawn_masks())


if __name__ == "__main__":
    main()
