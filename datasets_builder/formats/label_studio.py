"""Read the JSON export of Label Studio: polygons, brush masks, rectangles and ellipses.

    project-1.json         of any name; also train.json or train/project-1.json
    images/cb06-1.jpg      the photos, with or without Label Studio's prefix, or anywhere below the folder

Coordinates are percent of the upright photo, also if the annotator rotated the view (`image_rotation`).
"""

import functools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma_lisa.safety.short_text import listed, name_of, show

from .annotated import AS_SIZE, AnnotatedImage, AnnotationFormat, Notes, failing
from .coco_segmentation import photo_size
from .json_files import read_json
from .label_studio_regions import Region, is_size, objects_of, regions_of
from .photo_names import PhotoNames, is_photo_name
from .tool_folders import MOST_FILES, by_split, find_files, photo_folders, split_in

TITLE = "Label Studio JSON"
ADVICE = "export it from Label Studio in the format JSON"
SEVERAL = "photos with several annotations, whose objects were united"
GROUND_TRUTH = "photos with several annotations, of which those marked as ground truth were read"
NO_ANNOTATION = "skipped tasks without an annotation"
CANCELLED = "skipped annotations that the annotator cancelled"
PREDICTIONS = "skipped predictions of tasks without an annotation"
ROTATED_VIEW = "photos annotated in a rotated view, whose coordinates were read as those of the photo without rotation"
IMAGE_KEYS = ("image", "img", "photo", "picture", "captioning", "ocr", "url", "$undefined$")
VIDEO = re.compile(r"\.(mp4|m4v|mov|avi|webm|mkv|mpe?g|wmv)$", re.IGNORECASE)
_MARKS = re.compile(r'"(original_width|completed_by|was_cancelled|annotation_id|file_upload|inner_id)"\s*:')
_TASK = re.compile(r'"(annotations|completions|predictions)"\s*:\s*\[')


@dataclass(slots=True)
class _Task:
    """One task of the export."""

    where: str
    data: dict[str, Any]
    annotations: list[list[dict]]  # the results of each annotation that is read


def recognizes(folder: Path) -> bool:
    """Return whether a folder contains JSON files of Label Studio, also in the format JSON-MIN."""
    return bool(_files(folder, MOST_FILES))


def read(folder: Path, notes: Notes) -> dict[str, list[AnnotatedImage]]:
    """Return the photos of all JSON files of Label Studio in a folder, by split.

    Raises:
        ValueError: a file is damaged, has the format JSON-MIN, or has no annotation.
    """
    found, splits = [], []
    for file in _files(folder):
        tasks = read_json(file, ADVICE, _packed)
        photos = PhotoNames(photo_folders(file, folder), notes)
        images = [image for task in _tasks(tasks, file, notes) for image in _images(task, photos, notes)]
        if not images:
            raise ValueError(f"{file} contains no annotated task; annotate photos, and {ADVICE}.")
        found += images
        splits += [split_in(file.relative_to(folder))] * len(images)
    return by_split(found, splits)


def _files(folder: Path, most: int | None = None) -> list[Path]:
    return find_files(folder, ".json", _is_export, most)


def _is_export(start: str) -> bool:
    is_task = _TASK.search(start) and re.search(r'"data"\s*:\s*\{', start)
    return re.match(r"\[\s*\{", start) is not None and bool(_MARKS.search(start) or is_task)


def _packed(record: dict) -> dict:
    """Convert the RLE of a brush mask to bytes: a list needs eight times the memory."""
    rle = record.get("rle")
    if isinstance(rle, list) and all(type(number) is int and 0 <= number < 256 for number in rle):
        record["rle"] = bytes(rle)
    return record


def _tasks(content: Any, file: Path, notes: Notes) -> Iterator[_Task]:
    """Yield the tasks of a file that have an annotation.

    Raises:
        ValueError: the file has the format JSON-MIN, or is none of Label Studio.
    """
    if not isinstance(content, list):
        raise ValueError(f"{file}: the top level must be a list of tasks; {ADVICE}.")
    for place, record in enumerate(content, start=1):
        where = f"{file}: task {name_of(record.get('id', place)) if isinstance(record, dict) else place}"
        if not isinstance(record, dict):
            raise ValueError(f"{where} must be an object, got {show(record, 60)}; {ADVICE}.")
        annotations = record.get("annotations", record.get("completions"))  # the old name
        if not isinstance(record.get("data"), dict) or not isinstance(annotations, list):
            if "annotation_id" in record or "annotator" in record:
                raise ValueError(f"{file} has the format JSON-MIN, which is not supported; {ADVICE}.")
            raise ValueError(f"{where} must have data and annotations; {ADVICE}.")
        annotations = [one for one in annotations if isinstance(one, dict)]
        chosen = _chosen(annotations, where, notes)
        if chosen:
            lists = [one["result"] if isinstance(one.get("result"), list) else [] for one in chosen]
            yield _Task(where, record["data"], [[one for one in part if isinstance(one, dict)] for part in lists])
        else:
            notes.add(PREDICTIONS if record.get("predictions") and not annotations else NO_ANNOTATION, where)


def _chosen(annotations: list[dict], where: str, notes: Notes) -> list[dict]:
    """Return the annotations of a task that are read: not those cancelled, and those of the ground truth if any."""
    valid = [one for one in annotations if not one.get("was_cancelled")]
    for _ in annotations[len(valid) :]:
        notes.add(CANCELLED, where)
    best = [one for one in valid if one.get("ground_truth")]
    if len(valid) > 1:
        notes.add(GROUND_TRUTH if 0 < len(best) < len(valid) else SEVERAL, where)
    return best or valid


def _images(task: _Task, photos: PhotoNames, notes: Notes) -> Iterator[AnnotatedImage]:
    """Yield the photos of a task: one, or those of its list."""
    try:
        names = _names(task)
    except ValueError as error:
        yield AnnotatedImage(Path(photos.folders[0], "photo"), task.where, "", failing(error))
        return
    for index, name in enumerate(names):
        where, regions = f"{task.where} ({name_of(name, 60)})", []
        path, error = photos.find_or_error(name, where)
        for number, results in enumerate(task.annotations, start=1):
            of_item = [result for result in results if (result.get("item_index") or 0) == index]
            place = f"{where}: annotation {number}" if len(task.annotations) > 1 else where
            regions += regions_of(of_item, place, path, notes)
        yield _image(name, path, where, regions, error, notes)


def _image(
    name: str, path: Path, where: str, regions: list[Region], error: ValueError | None, notes: Notes
) -> AnnotatedImage:
    """Return a photo. error: of its name, raised by its `objects`."""
    size = None
    try:
        size = None if error else _size(regions, path, where)
    except ValueError as wrong:
        error = wrong
    if any(region.is_rotated for region in regions):
        notes.add(ROTATED_VIEW, where, path)
    objects = failing(error) if error else functools.partial(objects_of, regions, size)
    return AnnotatedImage(path, where, name, objects, size, frame=AS_SIZE)


def _size(regions: list[Region], path: Path, where: str) -> tuple[int, int] | None:
    """Return (height, width) in pixels that most regions state, or those of the photo if none states them."""
    if not regions:
        return None
    stated = Counter(region.size for region in regions if is_size(region.size))
    return stated.most_common(1)[0][0] if stated else photo_size(path, where)  # coordinates are percent of it


def _names(task: _Task) -> list[str]:
    """Return the names of the photos of a task: one, or several if its data has a list.

    Raises:
        ValueError: no value of the data, or several, can be a photo.
    """
    texts = {}
    if video := next((text for text in task.data.values() if isinstance(text, str) and VIDEO.search(text)), None):
        raise ValueError(
            f"{task.where}: {show(video)} is a video, which is not supported; annotate its frames as images."
        )
    for key, value in task.data.items():
        values = value if isinstance(value, list) and value else [value]
        if all(isinstance(text, str) and text.strip() for text in values):
            texts[key] = values
    found = {key: values for key, values in texts.items() if all(map(is_photo_name, values))} or texts
    if len(found) > 1:
        used = {str(result.get("to_name")) for results in task.annotations for result in results}
        named = [key for key in found if key in used] or [key for key in found if key in IMAGE_KEYS]
        found = {key: found[key] for key in named}
    if len(found) != 1:
        keys = listed(task.data) or "none"
        raise ValueError(f"{task.where}: its data must name one photo, got the keys {keys}; keep one of them.")
    return next(iter(found.values()))


FORMAT = AnnotationFormat(TITLE, recognizes, read)
