"""Photos with drawn objects, as the writers of labelling formats take them."""

from pathlib import Path

import numpy as np
from drawn_masks import SHAPE, masks
from PIL import Image

from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.datasets_builder.writers.exported import ExportedObject, ExportedPhoto

NAMES = ["mug", "what could open it?", "lid", "unused"]


def exported(name: str, mask: np.ndarray, score: float = 0.9) -> ExportedObject:
    return ExportedObject(name, encode_mask(mask), score)


def drawn_photos(folder: Path) -> list[ExportedPhoto]:
    """Write one photo per mask and one without objects to a folder, and return them with their objects."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = []
    for number, mask in enumerate(masks().values()):
        Image.fromarray(np.full((*SHAPE, 3), 10 * number, np.uint8)).save(folder / f"{number}.png")
        thing = exported(NAMES[number % 3], mask, 0.1 * number + 0.012345)
        photos.append(ExportedPhoto(f"{number}.png", SHAPE, [thing]))
    Image.new("RGB", SHAPE[::-1]).save(folder / "nothing.png")
    return [*photos, ExportedPhoto("nothing.png", SHAPE, [])]
