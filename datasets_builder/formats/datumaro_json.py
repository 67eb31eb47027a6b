"""Read Datumaro's own JSON files.

    annotations/train.json      classes, and the photos of a subset with their annotations
    images/train/1.jpg          photos; also in images/

Masks of one object can be several annotations with the same `group`, which is in the fields of the objects.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gemma_lisa.safety.short_text import name_of, show

from .annotated import AS_SIZE, AnnotatedImage, AnnotatedObject, AnnotationFormat, Notes
from .coco_segmentation import MIN_NUMBERS
from .file_search import largest, walk
from .json_files import read_json
from .photo_names import PhotoNames
from .tool_folders import by_split, head_of, is_in_other_split, split_in

ANNOTATIONS, IMAGES = "annotations", "images"
ADVICE = "export it again"
# In the first characters. COCO's categories are a list
KEYS = re.compile(r'"dm_format_version"|"categories"\s*:\s*\{\s*"(label|mask|points)"')
DEFAULT = ("default", "all")  # names of the subset of a data set without subsets
NUM_ELLIPSE_POINTS = 90
NO_SPLIT = "used subsets whose names are not train, val or test for train"
NO_CLASS = "skipped annotations without a class"
WITHOUT_AREA = "skipped annotations without an area, such as labels, captions, points and lines"
NO_AREA = ("label", "caption", "points", "polyline")


def recognizes(folder: Path) -> bool:
    """Return whether a file annotations/*.json below a folder, or a JSON file in it, is from Datumaro."""
    return bool(_files(folder, largest))


def read(folder: Path, notes: Notes) -> dict[str, list[AnnotatedImage]]:
    """Return the photos of each split.

    Raises:
        ValueError: there is no file of Datumaro, or a file cannot be read.
    """
    files = _files(folder)
    if not files:
        raise ValueError(f"{folder}: contains no {ANNOTATIONS}/*.json of Datumaro; {ADVICE}.")
    images, splits = [], []
    for file in files:
        split = split_in(file.name)
        if split is None and file.stem.lower() not in DEFAULT:
            notes.add(NO_SPLIT, str(file))
        found = _read_subset(file, folder, notes)
        images += found
        splits += [split] * len(found)
    return by_split(images, splits)


FORMAT = AnnotationFormat("Datumaro JSON files", recognizes, read)


def _files(folder: Path, choose: Callable[[list[Path]], list[Path]] = list) -> list[Path]:
    """Return the files of Datumaro among those that `choose` returns of a folder and of annotations/ below it."""
    found = []
    for here, _, names in walk(folder):
        if here == folder or here.name == ANNOTATIONS:
            files = [here / name for name in names if name.lower().endswith(".json")]
            found += [file for file in choose(files) if KEYS.search(head_of(file))]
    return found


class _Subset(NamedTuple):
    """A file of Datumaro."""

    file: Path
    root: Path  # contains images/ and annotations/
    names: list[str]  # of the classes, by label_id
    photos: PhotoNames
    notes: Notes


def _read_subset(file: Path, folder: Path, notes: Notes) -> list[AnnotatedImage]:
    content = read_json(file, ADVICE)
    items = content.get("items") if isinstance(content, dict) else None
    if not isinstance(items, list):
        raise ValueError(f"{file}: the list items is missing; {ADVICE}.")
    root = file.parent.parent if file.parent.name == ANNOTATIONS and file.parent != folder else file.parent
    places = (root / IMAGES / file.stem, root / IMAGES, root)
    photos = PhotoNames([place for place in places if place.is_dir()], notes)
    subset = _Subset(file, root, _class_names(content, file), photos, notes)
    return [_image(subset, item, place) for place, item in enumerate(items, start=1)]


def _class_names(content: dict, file: Path) -> list[str]:
    categories = content.get("categories")
    labels = categories.get("label") if isinstance(categories, dict) else None
    labels = labels.get("labels") if isinstance(labels, dict) else None
    names = [label.get("name") if isinstance(label, dict) else label for label in labels or []]
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"{file}: categories.label.labels must be a list of classes with names; {ADVICE}.")
    return names


def _image(subset: _Subset, item: Any, place: int) -> AnnotatedImage:
    """Return the photo of an item. place: counted from 1."""
    file, photos = subset.file, subset.photos
    item = item if isinstance(item, dict) else {}
    number = item.get("id")
    where = f"{file}: item {place if number is None else name_of(number)}"
    media = next((item[key] for key in ("image", "media") if isinstance(item.get(key), dict)), {})
    name = media.get("path") or number
    path, error = photos.find_or_error(name if isinstance(name, str) else str(name), where)
    if error is not None and isinstance(number, str) and "/" in number:
        # Datumaro writes images/train_a_1.jpg for the item a/1
        path, error = photos.find_or_error(number.replace("/", "_"), where)
    if error is None and is_in_other_split(path, split_in(file.name), subset.root):
        error = ValueError(f"{where}: its photo {path} is in another split; add the photo, or move one of them.")
    if not isinstance(item.get("annotations"), list):
        error = ValueError(f"{where}: the list annotations is missing; {ADVICE}.")
    elif not media and ("video_frame" in item or "video" in item or "point_cloud" in item):
        error = ValueError(f"{where} is not an image; save its frames as images before you export them.")
    size = media.get("size")
    is_size = isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)

    def objects() -> list[AnnotatedObject]:
        if error is not None:
            raise error
        read_one = (_object(one, at, subset, where, path) for at, one in enumerate(item["annotations"], start=1))
        return [one for one in read_one if one is not None]

    fields = item.get("attr") if isinstance(item.get("attr"), dict) else {}
    return AnnotatedImage(
        path, where, str(name), objects, tuple(size) if is_size else None, frame=AS_SIZE, fields=fields
    )


def _bad(reason: str, where: str, name: str = "") -> AnnotatedObject:
    return AnnotatedObject(name, where, None, error=ValueError(reason))


def _object(record: Any, place: int, subset: _Subset, where: str, photo: Path) -> AnnotatedObject | None:
    """Return an annotation as an object, or None if it has no area or class. A bad one has an error.

    place: counted from 1.
    """
    names, notes = subset.names, subset.notes
    where = f"{where}: annotation {place}"
    if not isinstance(record, dict):
        return _bad(f"{where} is not a record; export it again.", where)
    kind, label = record.get("type"), record.get("label_id")
    if kind in NO_AREA:
        return notes.add(WITHOUT_AREA, f"{where}: {kind}", photo)
    if label is None:
        return notes.add(NO_CLASS, where, photo)
    if type(label) is not int or not 0 <= label < len(names):
        return _bad(f"{where}: label_id must be from 0 to {len(names) - 1}, got {show(label)}.", where)
    where = f"{where} ({name_of(names[label])})"
    try:
        segmentation, box = _outline(record, kind, where)
    except ValueError as error:
        return _bad(str(error), where, names[label])
    if segmentation is None and box is None:
        return notes.add(WITHOUT_AREA, f"{where}: {kind} of fewer than 3 points", photo)
    attributes = record.get("attributes") if isinstance(record.get("attributes"), dict) else {}
    fields = attributes | {key: record[key] for key in ("group", "z_order", "object_id") if record.get(key) is not None}
    crowd = attributes.get("is_crowd") in (True, 1)
    return AnnotatedObject(names[label], where, segmentation, box=box, crowd=crowd, fields=fields)


def _outline(record: dict, kind: Any, where: str) -> tuple[list | dict | None, tuple | None]:
    """Return the polygons or RLE of an annotation, and its box (x, y, width, height). Each can be None."""
    if kind == "mask":
        return _rle(record.get("rle"), where), None
    if kind == "bbox":
        box = _numbers(record.get("bbox"), where)
        if len(box) != 4:
            raise ValueError(f"{where}: bbox must be 4 numbers, got {len(box)}; {ADVICE}.")
        return None, tuple(box)
    if kind not in ("polygon", "ellipse"):
        raise ValueError(f"{where}: the type {show(kind)} is not supported; use polygons or masks.")
    points = _numbers(record.get("points"), where)
    if kind == "ellipse":
        points = _ellipse(points, where)
    return ([points] if len(points) >= MIN_NUMBERS else None), None


def _rle(rle: Any, where: str) -> dict:
    """Return the size and counts of a mask; object_masks.py checks them."""
    if not isinstance(rle, dict) or not isinstance(rle.get("counts"), str | list):
        raise ValueError(f"{where}: the mask has no rle with size and counts; {ADVICE}.")
    return {"size": rle.get("size"), "counts": rle["counts"]}


def _ellipse(corners: list[float], where: str) -> list[float]:
    """Return the polygon of an ellipse. corners: x and y of two opposite corners of its box."""
    if len(corners) != 4:
        raise ValueError(f"{where}: the points of an ellipse must be 4 numbers, got {len(corners)}; {ADVICE}.")
    left, top, right, bottom = corners
    angles = np.linspace(0, 2 * np.pi, NUM_ELLIPSE_POINTS, endpoint=False)
    x = (left + right) / 2 + (right - left) / 2 * np.cos(angles)
    y = (top + bottom) / 2 + (bottom - top) / 2 * np.sin(angles)
    return np.stack([x, y], axis=1).ravel().tolist()


def _numbers(values: Any, where: str) -> list[float]:
    try:
        numbers = np.asarray([] if values is None else values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: points must be a list of numbers; {ADVICE}.") from error
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError(f"{where}: points must be a list of numbers; {ADVICE}.")
    return numbers.tolist()
