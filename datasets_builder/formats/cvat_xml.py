"""Read the XML files of CVAT, format "CVAT for images 1.1": polygons, masks, boxes and ellipses.

    annotations.xml        of a task, or of a project; also train.xml and train/annotations.xml
    images/1.jpg           or images/train/1.jpg, or anywhere below the folder

The shapes of a photo are parsed again when they are asked for, so a file with many masks needs little memory.
"""

import functools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.images_gemma_lisa import pixel_limit
from gemma_lisa.safety.short_text import name_of, shorten, show

from .annotated import AS_SIZE, AnnotatedImage, AnnotatedObject, AnnotationFormat, Notes
from .coco_records import LONGEST_SIDE
from .coco_segmentation import BORDER, photo_size
from .drawn_shapes import box_around, checked, ellipse
from .photo_names import PhotoNames
from .tool_folders import MOST_FILES, by_split, find_files, photo_folders, split_in
from .xml_files import parse_xml

TITLE = "CVAT for images 1.1"
ADVICE = f'export it from CVAT in the format "{TITLE}"'
SHAPES = ("polygon", "mask", "box", "ellipse")
NO_SPLIT = "photos of subsets without a split in their name, read as train"
UNNAMED_SUBSETS = ("", "default")  # CVAT's name of no subset
_ROOT = re.compile(r"<annotations[\s>]")


@dataclass(slots=True)
class _Image:
    """The record of a photo in an XML file."""

    attributes: dict[str, str]
    start: int  # first byte in the file
    end: int = 0  # first byte of its end tag


@dataclass(slots=True)
class _Shape:
    """A shape of a photo."""

    kind: str
    attributes: dict[str, str]
    fields: dict[str, str] = field(default_factory=dict)  # values of CVAT's attributes by name


class _Photo(NamedTuple):
    """What the objects of a photo are read from."""

    file: Path
    record: _Image
    path: Path
    size: tuple[int, int] | None  # (height, width) in pixels
    where: str


def recognizes(folder: Path) -> bool:
    """Return whether a folder contains XML files of CVAT, also those of videos."""
    return bool(_files(folder, MOST_FILES))


def read(folder: Path, notes: Notes) -> dict[str, list[AnnotatedImage]]:
    """Return the photos of all XML files of CVAT in a folder, by split.

    Raises:
        ValueError: an XML file is damaged, is of a video, or contains no photos.
    """
    images, splits = [], []
    for file in _files(folder):
        scan = _Scan(file, notes)
        if not scan.images:
            raise ValueError(f"{file} contains no <image>; {ADVICE}.")
        photos = {}
        for record in scan.images:
            subset = record.attributes.get("subset", scan.subset).strip()
            if subset not in photos:
                photos[subset] = PhotoNames(photo_folders(file, folder, subset), notes)
            image = _annotated(file, record, photos[subset])
            images.append(image)
            splits.append(_split(subset, file, folder, image, notes))
    return by_split(images, splits)


def _files(folder: Path, most: int | None = None) -> list[Path]:
    return find_files(folder, ".xml", lambda start: _ROOT.search(start) is not None, most)


def _split(subset: str, file: Path, root: Path, image: AnnotatedImage, notes: Notes) -> str | None:
    """Return the split of a photo: that of its subset, or of the names of the file and its folder, or None."""
    if subset.lower() in UNNAMED_SUBSETS:
        return split_in(file.relative_to(root))
    split = split_in(subset)
    if split is None:
        notes.add(NO_SPLIT, f"{image.where}: {show(subset)}", image.path)
    return split


class _Scan:
    """Find the photos in a file and count the shapes that are not supported.

    Attributes:
        images: records of the photos.
        subset: of all photos, as the file of a task states it; "" if it does not.
    """

    def __init__(self, file: Path, notes: Notes):
        self.images: list[_Image] = []
        self.subset = ""
        self._file, self._notes = file, notes
        self._open: list[str] = []  # names of the open elements
        parse_xml(file, self._start, self._end, self._text)
        self.subset = self.subset.strip()

    def _start(self, name: str, attributes: dict[str, str], at: int) -> None:
        if name == "track":
            raise ValueError(
                f"{self._file} contains tracks of a video, which are not supported; {ADVICE}, with its images."
            )
        self._open.append(name)
        if len(self._open) == 2 and name == "image":
            self.images.append(_Image(attributes, at))
        elif len(self._open) == 3 and self._open[1] == "image" and name not in SHAPES:
            label, image = attributes.get("label", ""), self.images[-1].attributes
            where = f"{_where(self._file, image)} ({name_of(label)})"
            self._notes.add(f"skipped shapes of type {shorten(name, 40)}, which is not supported", where)

    def _end(self, name: str, at: int) -> None:
        if len(self._open) == 2 and name == "image":
            self.images[-1].end = at
        self._open.pop()

    def _text(self, text: str) -> None:
        if len(self._open) == 4 and self._open[1] == "meta" and self._open[3] == "subset":  # of a task or a job
            self.subset += text


def _where(file: Path, image: dict[str, str]) -> str:
    return f"{file}: image {name_of(image.get('id', '?'))} ({name_of(image.get('name', ''))})"


def _annotated(file: Path, record: _Image, photos: PhotoNames) -> AnnotatedImage:
    """Return a photo. Errors of its record are raised by its `objects`."""
    where, name = _where(file, record.attributes), record.attributes.get("name", "")
    path, error = photos.find_or_error(name, where)
    size = None
    try:
        size = _size(record.attributes, where)
    except ValueError as wrong:
        error = error or wrong
    photo = _Photo(file, record, path, size, where)
    return AnnotatedImage(path, where, name, functools.partial(_objects, photo, error), size, frame=AS_SIZE)


def _size(attributes: dict[str, str], where: str) -> tuple[int, int] | None:
    """Return (height, width) in pixels of a photo, or None if both are missing."""
    sides = [attributes.get(side, "") for side in ("height", "width")]
    if sides == ["", ""]:
        return None
    height, width = (int(side) if side.isdecimal() and len(side) < 12 else 0 for side in sides)
    if not (0 < height <= LONGEST_SIDE and 0 < width <= LONGEST_SIDE):
        raise ValueError(
            f"{where}: width and height must be numbers of pixels, got {show(sides[1])} and {show(sides[0])}; {ADVICE}."
        )
    return height, width


def _objects(photo: _Photo, error: ValueError | None) -> list[AnnotatedObject]:
    """Return the objects of a photo, from the lowest to the highest z_order.

    Raises:
        ValueError: the error, if there is one; or the file has changed.
    """
    if error is not None:
        raise error
    shapes = sorted(_shapes(photo.file, photo.record), key=lambda shape: _z_order(shape[1]))
    return [_object(shape, photo, f"{photo.where}: shape {place}") for place, shape in shapes]


def _z_order(shape: _Shape) -> int:
    text = shape.attributes.get("z_order", "0")
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else 0


def _shapes(file: Path, record: _Image) -> list[tuple[int, _Shape]]:
    """Return the supported shapes of a photo with their places in its record, from 1."""
    shapes, depth, places, text, attribute = [], 0, 0, [], None

    def start(name: str, attributes: dict[str, str], _: int) -> None:
        nonlocal depth, places, attribute
        depth += 1
        if depth == 2:
            places += 1
            shapes.append((places, _Shape(name, attributes)))
        elif depth == 3 and name == "attribute":
            attribute = attributes.get("name", "")
            text.clear()

    def end(name: str, _: int) -> None:
        nonlocal depth, attribute
        if depth == 3 and attribute is not None:
            shapes[-1][1].fields[attribute] = "".join(text).strip()
            attribute = None
        depth -= 1

    parse_xml(file, start, end, text.append, (record.start, record.end), "image")
    return [(place, shape) for place, shape in shapes if shape.kind in SHAPES]


def _object(shape: _Shape, photo: _Photo, where: str) -> AnnotatedObject:
    label = shape.attributes.get("label", "").strip()
    where = f"{where} ({shape.kind} {name_of(label)})"
    one = AnnotatedObject(label, where, None, fields=shape.fields)
    try:
        if not label:
            raise ValueError("it has no label")
        if shape.kind == "box":
            one.box = _box(shape.attributes)
        elif shape.kind == "polygon":
            one.segmentation = [_polygon(shape.attributes.get("points", ""))]
        elif shape.kind == "ellipse":
            cx, cy, rx, ry = _numbers(shape.attributes, "cx", "cy", "rx", "ry")
            one.segmentation = [ellipse((cx, cy), (rx, ry), _rotation(shape.attributes), photo.size)]
        else:
            one.segmentation = _mask(shape.attributes, photo.size or photo_size(photo.path, where))
    except ValueError as error:
        one.error = ValueError(f"{where}: {str(error).rstrip('.')}; correct it in CVAT and export it again.")
    return one


def _numbers(attributes: dict[str, str], *names: str) -> list[float]:
    try:
        return [float(attributes[name]) for name in names]
    except (KeyError, ValueError) as error:
        got = ", ".join(f"{name}={show(attributes.get(name), 40)}" for name in names)
        raise ValueError(f"its attributes must be numbers, got {got}") from error


def _rotation(attributes: dict[str, str]) -> float:
    return _numbers(attributes, "rotation")[0] if "rotation" in attributes else 0.0


def _box(attributes: dict[str, str]) -> tuple[float, float, float, float]:
    """Return the upright box (x, y, width, height) around a box, which CVAT rotates around its center."""
    left, top, right, bottom = _numbers(attributes, "xtl", "ytl", "xbr", "ybr")
    left, right, top, bottom = min(left, right), max(left, right), min(top, bottom), max(top, bottom)
    center = (left + right) / 2, (top + bottom) / 2
    return box_around((left, top), (right - left, bottom - top), _rotation(attributes), center)


def _polygon(points: str) -> list[float]:
    """Return a polygon [x, y, x, y, ...] from "x,y;x,y;..."."""
    pairs = [pair.split(",") for pair in points.split(";") if pair.strip()]
    try:
        return [float(number) for x, y in pairs for number in (x, y)]
    except ValueError as error:
        raise ValueError(f"its points must be pairs x,y;x,y;..., got {show(points, 60)}") from error


def _mask(attributes: dict[str, str], size: tuple[int, int]) -> dict:
    """Return the RLE of a mask on the whole photo, (height, width) in pixels.

    CVAT stores run lengths in row order within a box. The first run is background.
    """
    numbers = _numbers(attributes, "left", "top", "width", "height")
    checked(*numbers)
    left, top, width, height = map(int, numbers)
    if not (0 < width <= LONGEST_SIDE and 0 < height <= LONGEST_SIDE and size[0] * size[1] <= pixel_limit()):
        raise ValueError(
            f"its box is {width} x {height} and its photo {size[1]} x {size[0]} pixels (width x height); both must "
            f"have 1 to {pixel_limit():,} pixels"
        )
    beyond = max(-left, -top, left + width - size[1], top + height - size[0])
    if beyond > BORDER:
        raise ValueError(f"its box extends {beyond} pixels beyond the photo of {size[1]} x {size[0]} pixels")
    try:
        runs = np.array(list(map(int, attributes.get("rle", "").split(","))), dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"its rle must be a list of numbers, got {show(attributes.get('rle'), 60)}") from error
    pixels = width * height
    if runs.min() < 0 or runs.max() > pixels or runs.sum() != pixels:
        raise ValueError(f"its rle covers {runs.sum():,} pixels, but its box of {width} x {height} has {pixels:,}")
    crop = np.repeat(np.arange(len(runs), dtype=np.uint8) & 1, runs).reshape(height, width)
    whole = np.zeros(size, dtype=np.uint8)
    inside = crop[max(-top, 0) : size[0] - top, max(-left, 0) : size[1] - left]
    whole[max(top, 0) :, max(left, 0) :][: inside.shape[0], : inside.shape[1]] = inside
    return encode_mask(whole)


FORMAT = AnnotationFormat(TITLE, recognizes, read)
