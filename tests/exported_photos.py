"""Photos with drawn objects, as the writers of labelling formats take them."""

from pathlib import Path

import numpy as np
from drawn_masks import SHAPE, masks
from PIL import Image

from gemma_lisa.datasets_builder.class_names import question_of
from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.rows import decode_mask, encode_mask
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


def assert_folder_reads_exactly_the_masks(folder: Path) -> None:
    """Read the written data set of `drawn_photos` as `--dataset folder` and compare its masks with the drawn ones."""
    rows, drawn = load_rows("folder", "train", str(folder)), list(masks().values())
    assert len(rows) == len(drawn)  # the photo without objects has no question
    for row in rows:
        number = int(Path(row["image"]["path"]).stem)
        (target,) = row["targets"]
        assert target["texts"] == [question_of(NAMES[number % 3])]
        assert (decode_mask(target["masks"][0], "row") == drawn[number]).all()
