"""Write a data set as Pascal VOC segmentation.

    JPEGImages/1.jpg
    SegmentationClass/1.png         palette PNG: class number per pixel, 0 = background
    SegmentationObject/1.png        palette PNG: object number per pixel
    ImageSets/Segmentation/train.txt
    labelmap.txt                    class: color in the palette

A pixel has one object: where objects overlap, the one with the higher score is on top. The format has no scores.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from gemma_lisa.safety.short_text import count_of, show

from .exported import BACKGROUND, DatasetWriter, ExportedPhoto

IMAGES, CLASSES, OBJECTS = "JPEGImages", "SegmentationClass", "SegmentationObject"
TRAIN, LABEL_MAP = "ImageSets/Segmentation/train.txt", "labelmap.txt"
MAX_NUMBER = 254  # of a class or an object; 255 is the ignore region
_COLORS, _CHANNELS, _BITS = 256, 3, 8


def palette() -> np.ndarray:
    """Return the colors of Pascal VOC, (256, 3) uint8: the bits of the number, spread over the channels."""
    numbers = np.arange(_COLORS)
    colors = np.zeros((_COLORS, _CHANNELS), dtype=np.int64)
    for place in range(_BITS):
        channel = place % _CHANNELS
        colors[:, channel] |= ((numbers >> place) & 1) << (_BITS - 1 - place // _CHANNELS)
    return colors.astype(np.uint8)


def refusal(names: list[str]) -> str | None:
    """Return why these class names cannot be written, or None."""
    if len(names) > MAX_NUMBER:
        return f"at most {MAX_NUMBER} classes are supported, got {len(names):,}"
    for name in names:
        if name.lower() == BACKGROUND or ":" in name or name.startswith("#"):
            return f"a class must not be {BACKGROUND}, contain a colon or begin with #, got {show(name)}"
    return None


def write(folder: Path, photos: Iterable[ExportedPhoto], names: list[str], tolerance: float = 0.0) -> list[str]:
    """Write the label maps, the list of photos and labelmap.txt. Label maps have no polygons, so no tolerance."""
    colors = palette()
    numbers = {name: number for number, name in enumerate(names, start=1)}
    stems, num_hidden, num_many = [], 0, 0
    for photo in photos:
        classes, objects = np.zeros(photo.size, dtype=np.uint8), np.zeros(photo.size, dtype=np.uint8)
        # The best last: it is drawn on top
        order = sorted(enumerate(photo.objects, start=1), key=lambda numbered: numbered[1].score)
        order = [(number, thing) for number, thing in order if number <= MAX_NUMBER]
        num_many += len(photo.objects) - len(order)
        covered = set()
        for number, thing in order:
            mask = thing.mask() > 0
            covered |= set(np.unique(objects[mask]).tolist())
            classes[mask], objects[mask] = numbers[thing.name], number
        num_hidden += len(covered - {0})
        for place, values in ((CLASSES, classes), (OBJECTS, objects)):
            _save(folder / place / f"{photo.stem}.png", values, colors)
        stems.append(photo.stem)
    (folder / TRAIN).parent.mkdir(parents=True, exist_ok=True)
    (folder / TRAIN).write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    lines = ["# label:color_rgb:parts:actions", f"{BACKGROUND}:0,0,0::"]
    lines += [f"{name}:{','.join(map(str, colors[number]))}::" for name, number in numbers.items()]
    (folder / LABEL_MAP).write_text("\n".join([*lines, ""]), encoding="utf-8")
    remarks = {
        "an object with a higher score covers a part of {}": num_hidden,
        f"skipped {{}} beyond {MAX_NUMBER} of one photo": num_many,
    }
    return [remark.format(count_of(number, "object")) for remark, number in remarks.items() if number]


def _save(path: Path, values: np.ndarray, colors: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values)
    picture.putpalette(colors.ravel().tolist())  # makes it a palette image
    picture.save(path)


VOC = DatasetWriter(
    title="Pascal VOC",
    photos=IMAGES,
    is_upright=True,
    has_polygons=False,
    refusal=refusal,
    write=write,
    next_step="Zip the content of {folder} and import it into a CVAT project (Segmentation mask 1.1). Correct it, "
    "export it, and train with --dataset folder --data_dir FOLDER.",
)
