"""Read a project of Supervisely.

    meta.json                   classes
    train/img/1.jpg             a data set is a folder with img/ and ann/; its name can be a split
    train/ann/1.jpg.json        size and objects; also named 1.json

The folders can also be nested, and img/ and ann/ can be in the data folder itself.
"""

import zlib
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gemma_lisa.safety.short_text import listed, name_of, show

from .annotated import AS_SIZE, AnnotatedImage, AnnotatedObject, AnnotationFormat, Notes
from .coco_segmentation import photo_size
from .file_search import walk
from .json_files import read_json
from .mask_pictures import PNG_START, check_place, check_size, decode_base64, placed, png_pixels, png_size
from .photo_names import PhotoNames
from .tool_folders import by_split, files_below, head_of, photo_suffixes, split_in

IMAGES, ANNOTATIONS, META = "img", "ann", "meta.json"
ADVICE = "export the project again"
FEW_FILES = 3  # annotation files that are looked at to recognize the format
MIN_POINTS = 3  # of a polygon
# Bytes of a PNG with RGBA per pixel, and of its other parts: the maximum that a mask is decompressed to
PNG_BYTES_PER_PIXEL, PNG_EXTRA_BYTES = 5, 1_000_000
PNG_HEAD = 64  # bytes that contain the size
NO_FILE = "skipped photos without a file in ann/"
NO_SPLIT = "used photos outside of the data sets of the splits for train"
NO_SIZE = "used annotation files without a valid size"
WITHOUT_AREA = "skipped objects without an area, such as points, lines and polygons of fewer than 3 points"
SMALL_HOLE = "ignored holes of fewer than 3 points"
SOFT_MASK = "used alpha masks without their transparency"
NO_AREA = ("point", "line", "polyline", "graph")


def recognizes(folder: Path) -> bool:
    """Return whether a folder below has img/ and ann/ with annotations of Supervisely."""
    return any(
        any(_is_annotation(head_of(file)) for file in islice(files_below(place / ANNOTATIONS, {".json"}), FEW_FILES))
        for place in _data_sets(folder)
    )


def read(folder: Path, notes: Notes) -> dict[str, list[AnnotatedImage]]:
    """Return the photos of each split that have an annotation file.

    Raises:
        ValueError: there is no data set, or meta.json cannot be read.
    """
    images, splits, shapes_of = [], [], {}
    for place in _data_sets(folder):
        project = next((parent / META for parent in (place, *place.parents) if (parent / META).is_file()), None)
        if project is not None and project.is_relative_to(folder) and project not in shapes_of:
            shapes_of[project] = _shapes_of_classes(project)
        found = _read_data_set(place, shapes_of.get(project, {}), notes)
        images += found
        splits += [split_in(place.relative_to(folder))] * len(found)
    if not images:
        raise ValueError(f"{folder}: contains no folder with {IMAGES}/ and {ANNOTATIONS}/ of Supervisely; {ADVICE}.")
    if any(splits):
        for image, split in zip(images, splits, strict=True):
            if split is None:
                notes.add(NO_SPLIT, image.where, image.path)
    return by_split(images, splits)


FORMAT = AnnotationFormat("Supervisely project", recognizes, read)


def _data_sets(folder: Path) -> list[Path]:
    """Return the folders that contain img/ and ann/."""
    return [here for here, folders, _ in walk(folder) if {IMAGES, ANNOTATIONS} <= set(folders)]


def _is_annotation(head: str) -> bool:
    return head.lstrip().startswith("{") and any(key in head for key in ('"objects"', '"size"', '"classTitle"'))


def _shapes_of_classes(file: Path) -> dict[str, str]:
    """Return the shape of each class in meta.json: old annotation files do not state the shapes of objects."""
    meta = read_json(file, ADVICE)
    classes = meta.get("classes") if isinstance(meta, dict) else None
    if not isinstance(classes, list):
        raise ValueError(f"{file}: the list classes is missing; {ADVICE}.")
    return {
        one["title"]: one["shape"]
        for one in classes
        if isinstance(one, dict) and isinstance(one.get("title"), str) and isinstance(one.get("shape"), str)
    }


def _read_data_set(place: Path, shapes: dict[str, str], notes: Notes) -> list[AnnotatedImage]:
    """Return the photos of a data set. shapes: of each class."""
    names = PhotoNames([place / IMAGES], notes)
    images = []
    for file in files_below(place / ANNOTATIONS, {".json"}):
        name = file.relative_to(place / ANNOTATIONS).with_suffix("").as_posix()
        path, error = names.find_or_error(name, str(file))
        try:
            content = _content(file)
        except ValueError as unreadable:
            content, error = {}, unreadable
        size = _size(content.get("size"))
        if error is None and size is None:
            notes.add(NO_SIZE, f"{file}: {show(content.get('size'))}", path)
        images.append(_image(file, path, size, content, shapes, notes, error))
    found = {image.path for image in images}
    for path in files_below(place / IMAGES, photo_suffixes()):
        if path not in found:
            notes.add(NO_FILE, str(path), path)
    return images


def _image(
    file: Path,
    path: Path,
    size: tuple[int, int] | None,
    content: dict,
    shapes: dict[str, str],
    notes: Notes,
    error: ValueError | None,
) -> AnnotatedImage:
    def objects() -> list[AnnotatedObject]:
        if error is not None:
            raise error
        reader = _Objects(file, path, size, shapes, notes)
        return [one for at, record in enumerate(_content(file)["objects"], start=1) if (one := reader.read(record, at))]

    fields = _tags(content.get("tags"))
    return AnnotatedImage(path, str(file), path.name, objects, size, frame=AS_SIZE, fields=fields)


def _content(file: Path) -> dict[str, Any]:
    content = read_json(file, ADVICE)
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        raise ValueError(f"{file}: the list objects is missing; {ADVICE}.")
    return content


def _size(size: Any) -> tuple[int, int] | None:
    """Return (height, width) in pixels, or None if they are not valid."""
    sides = (size.get("height"), size.get("width")) if isinstance(size, dict) else (None, None)
    return sides if all(type(side) is int and side > 0 for side in sides) else None


def _tags(tags: Any) -> dict[str, Any]:
    """Return the values of tags by name; True for a tag without a value."""
    found = {}
    for tag in tags if isinstance(tags, list) else []:
        if isinstance(tag, str):
            found[tag] = True
        elif isinstance(tag, dict) and isinstance(tag.get("name"), str):
            found[tag["name"]] = True if tag.get("value") is None else tag["value"]
    return found


class _Objects:
    """Read the objects of one photo.

    Args:
        file: in ann/.
        photo: its path.
        size: (height, width) in pixels that the file states, or None.
        shapes: of each class, by name.
        notes: counts the skipped objects.
    """

    def __init__(self, file: Path, photo: Path, size: tuple[int, int] | None, shapes: dict[str, str], notes: Notes):
        self.file, self.photo, self.size, self.shapes, self.notes = file, photo, size, shapes, notes

    def read(self, record: Any, place: int) -> AnnotatedObject | None:
        """Return an object, also one with an error, or None if it has no area. place: counted from 1."""
        name = record.get("classTitle") if isinstance(record, dict) else None
        where = f"{self.file}: object {place}"
        try:
            if not isinstance(name, str) or not name.strip():
                raise ValueError(f"{where} has no classTitle; {ADVICE}.")
            where = f"{where} ({name_of(name)})"
            kind = self._kind(record, name)
            if kind in NO_AREA:
                return self.notes.add(WITHOUT_AREA, f"{where}: {kind}", self.photo)
            if kind in ("bitmap", "alpha_mask"):
                outline, holes = self._bitmap(record.get(kind) or record.get("bitmap"), kind, where), []
            else:
                outline, holes = self._outline(record, kind, where)
        except ValueError as error:
            return AnnotatedObject(name if isinstance(name, str) else "", where, None, error=error)
        if not outline:
            return self.notes.add(WITHOUT_AREA, f"{where}: {kind}", self.photo)
        fields = _tags(record.get("tags"))
        fields |= {key: record[key] for key in ("description", "instance") if record.get(key) not in (None, "")}
        return AnnotatedObject(name, where, outline, holes, fields=fields)

    def _kind(self, record: dict, name: str) -> str:
        """Return the shape of an object. Old files do not state it."""
        for kind in (record.get("geometryType"), record.get("shape"), record.get("type")):
            if isinstance(kind, str):
                return kind
        if record.get("bitmap"):
            return "bitmap"
        return self.shapes.get(name, "polygon")

    def _outline(self, record: dict, kind: str, where: str) -> tuple[list, list]:
        """Return the polygons of an object and of its holes."""
        if kind == "multipolygon":
            parts = record.get("parts")
        else:
            parts = [record.get("points")]
        if kind not in ("polygon", "multipolygon", "rectangle") or not isinstance(parts, list):
            raise ValueError(f"{where}: the shape {name_of(kind)} is not supported; draw a polygon or a mask.")
        polygons, holes = [], []
        for part in parts:
            if not isinstance(part, dict):
                raise ValueError(f"{where}: points are missing; {ADVICE}.")
            points = _points(part.get("exterior"), where)
            if kind == "rectangle" and len(points) == 2:
                (left, top), (right, bottom) = points.tolist()
                points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
            if len(points) < MIN_POINTS:
                continue
            polygons.append(points.ravel().tolist())
            interior = part.get("interior") or []
            if not isinstance(interior, list):
                raise ValueError(f"{where}: interior must be a list of polygons; {ADVICE}.")
            for hole in (_points(hole, where) for hole in interior):
                if len(hole) >= MIN_POINTS:
                    holes.append(hole.ravel().tolist())
                else:
                    self.notes.add(SMALL_HOLE, where, self.photo)
        return polygons, holes

    def _bitmap(self, bitmap: Any, kind: str, where: str) -> dict:
        """Return the RLE of a mask: a compressed PNG in base64, and its first pixel (x, y)."""
        data, origin = (bitmap.get("data"), bitmap.get("origin")) if isinstance(bitmap, dict) else (None, None)
        corner = _points([origin], where)
        if len(corner) != 1:
            raise ValueError(f"{where}: the origin of its mask must be x and y, got {show(origin)}; {ADVICE}.")
        size = self.size or photo_size(self.photo, where)
        check_size(size, where)
        png = decode_base64(data, where)
        is_plain = png.startswith(PNG_START)
        height, width = png_size(png if is_plain else _decompressed(png, PNG_HEAD, where), where)
        left, top = np.rint(corner[0]).tolist()
        check_place((height, width), left, top, size, where)
        if not is_plain:
            limit = PNG_BYTES_PER_PIXEL * height * width + PNG_EXTRA_BYTES
            png = _decompressed(png, limit + 1, where)
            if len(png) > limit:
                raise ValueError(
                    f"{where}: the mask has more than {limit:,} bytes when it is decompressed, but it is only {width} "
                    f"x {height} pixels (width x height); {ADVICE}."
                )
        if kind == "alpha_mask":
            self.notes.add(SOFT_MASK, where, self.photo)
        return placed(png_pixels(png, where, with_alpha=True), int(left), int(top), size)


def _points(points: Any, where: str) -> np.ndarray:
    """Return points (N, 2) float64, (x, y) each; empty if there are none."""
    try:
        found = np.asarray([] if points is None else points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: points must be pairs of numbers, got {listed([points])}; {ADVICE}.") from error
    if not found.size:
        return np.empty((0, 2))
    if found.ndim != 2 or found.shape[1] != 2 or not np.isfinite(found).all():
        raise ValueError(f"{where}: points must be pairs of numbers, got {listed([points])}; {ADVICE}.")
    return found


def _decompressed(data: bytes, length: int, where: str) -> bytes:
    """Return the first bytes of a zlib stream, at most `length`."""
    try:
        return zlib.decompressobj().decompress(data, length)
    except zlib.error as error:
        raise ValueError(f"{where}: the mask is not a PNG compressed with zlib; {ADVICE}.") from error
