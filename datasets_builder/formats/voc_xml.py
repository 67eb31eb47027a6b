"""Read Pascal VOC's XML files with polygons, as Roboflow and supervision write them. Boxes alone are an error.

    <annotation><filename>1.jpg</filename><size><width>640</width><height>480</height></size>
      <object><name>mug</name><bndbox><xmin>2</xmin>...</bndbox><polygon><x1>2</x1><y1>3</y1>...</polygon></object>

Coordinates start at 1. The files of the LabelMe web tool and of CVAT's "LabelMe 3.0" have points <pt><x>1</x><y>2</y>
instead, which start at 0.
"""

import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from gemma_lisa.safety.short_text import count_of, reason_of

from .annotated import AS_SIZE, AnnotatedImage, AnnotatedObject, Notes
from .coco_records import LONGEST_SIDE
from .folder_listing import composed, first_text, ordered, read_text, split_of, split_word, without_suffix

XML_ROOT = re.compile(r"<annotation[\s>]")
OBJECT_KEYS = re.compile(r"<(bndbox|polygon|segm|object)[\s>/]")
POLYGON = re.compile(r"<polygon[\s>]")
FORBIDDEN = ("<!DOCTYPE", "<!ENTITY")  # entities can expand to any amount of text
LISTS = "ImageSets/"
MASK_FOLDERS = ("masks", "mask")  # a folder with these has its own format, next to XML files with boxes
# Limits of `is_voc_xml`
CHECKED_FILES, CHECKED_FOLDERS, START = 10, 300, 20_000

WITHOUT_PHOTO = "skipped XML files without a photo"
DELETED = "skipped objects that are marked as deleted"


def is_voc_xml(root: Path) -> bool:
    """Return whether a folder contains XML files of this format and no masks."""
    num_folders, num_files, found = 0, 0, False
    for here, folders, names in os.walk(root):
        num_folders += 1
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(name.lower() in MASK_FOLDERS for name in folders):
            return False
        for name in sorted(names):
            if name.lower().endswith(".xml") and num_files < CHECKED_FILES and not found:
                num_files += 1
                text = first_text(Path(here, name), START)
                found = bool(XML_ROOT.search(text) and OBJECT_KEYS.search(text))
        if num_folders == CHECKED_FOLDERS or num_files == CHECKED_FILES:
            break
    return found


def read_xml(
    root: Path, files: dict[str, Path], find_photos: Callable[[str, str], list[Path]], notes: Notes
) -> dict[str, list[AnnotatedImage]]:
    """Return the photos of each split.

    Args:
        root: the data folder.
        files: all files by relative path.
        find_photos: `PhotosByStem.find` of voc.py.
        notes: counts what was interpreted.

    Raises:
        ValueError: no file has a polygon or a photo.
    """
    names = [name for name in files if name.lower().endswith(".xml")]
    names = [name for name in names if XML_ROOT.search(first_text(files[name], START))]
    if not any(_has_polygon(files[name]) for name in names):
        raise ValueError(
            f"{root}: contains boxes only, in {count_of(len(names), 'XML file')} of Pascal VOC, but masks need "
            'outlines; export segmentation masks: in CVAT "Segmentation mask 1.1" or COCO, in Roboflow COCO '
            "Segmentation."
        )
    lists = _lists(files)
    found = defaultdict(list)
    for name in names:
        image = _image(files[name], name, find_photos, notes)
        if image is not None:
            stem = without_suffix(name.rpartition("/")[2])
            found[split_of(name) or lists.get(stem, "train")].append(image)
    if not found:
        raise ValueError(
            f"{root}: contains XML files of Pascal VOC, but no photo of theirs; put the photos into JPEGImages/, or "
            "export the data set with its images."
        )
    return ordered(found)


def _has_polygon(file: Path) -> bool:
    try:
        return bool(POLYGON.search(read_text(file)))
    except ValueError:
        return False


def _lists(files: dict[str, Path]) -> dict[str, str]:
    """Return the splits that ImageSets/*/train.txt and others define, by the names in them."""
    splits = {}
    for name, path in files.items():
        split = split_word(without_suffix(name.rpartition("/")[2]))
        if split and f"/{name}".find(f"/{LISTS}") >= 0 and name.endswith(".txt"):
            for line in read_text(path).splitlines():
                splits.setdefault(composed((line.split() or [""])[0]), split)
    return splits


def _image(file: Path, name: str, find_photos: Callable[[str, str], list[Path]], notes: Notes) -> AnnotatedImage | None:
    """Return the photo of an XML file, or None if there is none."""
    stem, error, annotation = without_suffix(name.rpartition("/")[2]), None, None
    try:
        annotation = _parse(file)
    except ValueError as wrong:
        error = wrong
    folder = f"{name.rpartition('/')[0]}/" if "/" in name else ""
    stated = _text(annotation, "filename") if annotation is not None else ""
    photos = []
    for wanted in (composed(without_suffix(stated.replace("\\", "/").rpartition("/")[2])), stem):
        photos = photos or (wanted and find_photos(wanted, folder))
    if not photos:
        notes.add(WITHOUT_PHOTO, str(file))
        return None

    def objects() -> list[AnnotatedObject]:
        if error:
            raise error
        if len(photos) > 1:
            names = " and ".join(map(str, photos[:2]))
            raise ValueError(f"{file}: its photo can be {names}; rename or remove one of them.")
        return list(_objects(annotation, file, photos[0], notes))

    size = _size(annotation) if annotation is not None else None
    return AnnotatedImage(photos[0], str(file), stated or name, objects, size, frame=AS_SIZE if size else "")


def _parse(file: Path) -> ElementTree.Element:
    text = read_text(file)
    if any(word in text for word in FORBIDDEN):
        raise ValueError(f"{file}: XML with a document type or entities is not supported; remove it.")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as XML ({reason_of(error)}); export it again.") from error


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _size(annotation: ElementTree.Element) -> tuple[int, int] | None:
    """Return (height, width) in pixels that the file states, or None."""
    for size, height, width in (("size", "height", "width"), ("imagesize", "nrows", "ncols")):
        sides = [_text(annotation, f"{size}/{side}") for side in (height, width)]
        if all(re.fullmatch(r"\d{1,9}", side) and 0 < int(side) <= LONGEST_SIDE for side in sides):
            return int(sides[0]), int(sides[1])
    return None


def _objects(annotation: ElementTree.Element, file: Path, photo: Path, notes: Notes) -> Iterator[AnnotatedObject]:
    for place, element in enumerate(annotation.findall("object"), start=1):
        where = f"{file}: object {place}"
        name = _text(element, "name")
        if _text(element, "deleted") in ("1", "true"):
            notes.add(DELETED, where, photo)
            continue
        if not name:
            raise ValueError(f"{where} has no name; add one.")
        polygons = [_polygon(polygon) for polygon in element.findall("polygon")]
        box = _box(element.find("bndbox"))
        if _text(element, "type") == "bounding_box" and len(polygons) == 1:  # CVAT's "LabelMe 3.0"
            x, y = polygons[0][::2], polygons[0][1::2]
            polygons, box = [], (min(x), min(y), max(x) - min(x), max(y) - min(y)) if x and y else None
        yield AnnotatedObject(name, where, polygons or None, box=box)


def _polygon(polygon: ElementTree.Element) -> list[float]:
    """Return the coordinates x, y, x, y, ... in pixels from 0."""
    points = polygon.findall("pt")
    if points:
        return [_number(point.findtext(axis)) for point in points for axis in ("x", "y")]
    by_place = {child.tag: child.text for child in polygon}
    places = sorted({int(tag[1:]) for tag in by_place if re.fullmatch(r"[xy]\d{1,6}", tag)})
    return [_number(by_place.get(f"{axis}{place}")) - 1 for place in places for axis in ("x", "y")]


def _box(box: ElementTree.Element | None) -> tuple[float, float, float, float] | None:
    """Return (x, y, width, height) from the numbers of the first and the last pixel, which start at 1."""
    if box is None:
        return None
    left, top, right, bottom = (_number(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax"))
    numbers = (left - 1, top - 1, right - left + 1, bottom - top + 1)
    return numbers if all(map(math.isfinite, numbers)) else None


def _number(text: str | None) -> float:
    """Return a coordinate; NaN for a text that is not a number: the error is that of the object."""
    try:
        return float(text or "")
    except ValueError:
        return math.nan
