"""Read YOLO segmentation labels, as Ultralytics, Roboflow, CVAT, Label Studio and supervision write them.

    data.yaml                   names and splits; or classes.txt with one name per line, numbered from 0
    train/images/1.jpg          photo, and its labels in train/labels/1.txt
    images/train/1.jpg          or labels/train/1.txt
    images/1.jpg                or labels/1.txt
    1.jpg                       or 1.txt next to the photo

A line is one object: `class x y x y ...` in fractions of the photo. A photo without labels has no objects.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from gemma_lisa.safety.short_text import count_of

from .annotated import AnnotatedImage, AnnotatedObject, AnnotationFormat, Notes, loaded
from .folder_listing import first_text, folders_of, is_photo, list_files, ordered, without_suffix
from .yolo_config import YoloConfig, find_config, find_yaml
from .yolo_labels import BOX_NUMBERS, MIN_NUMBERS, LabelLine, has_polygon, is_label, read_lines, read_objects
from .yolo_splits import split_photos

IMAGE_FOLDERS = ("images", "image")
LABEL_FOLDERS = ("labels", "label", "Labels", "annotations")
LABEL_SUFFIX = ".txt"
UPLOAD = re.compile(r"[0-9a-f]{8}-(.+)")  # Label Studio puts this before the name of every uploaded photo
FOUR_CORNERS = 8  # numbers of an oriented box
# Limits of `recognizes`
CHECKED_FILES, CHECKED_FOLDERS, START = 30, 300, 4_000

WITHOUT_LABELS = "photos without a label file; they have no objects"
WITHOUT_PHOTO = "skipped label files without a photo"
OTHER_IMAGES = "skipped image files outside of images/ without a label file"
NO_PREFIX = "label files whose photo has no prefix of Label Studio in its name"
ORIENTED = "data sets whose outlines all have four corners, as oriented boxes have; they were read as polygons"


def recognizes(root: Path) -> bool:
    """Return whether a folder contains YOLO labels."""
    is_described = bool(find_yaml(root))
    for file in _some_labels(root):
        lines = first_text(file, START).splitlines()
        if is_described or any(map(is_label, lines[:-1] or lines)):  # the last line can be cut
            return True
    return False


def _some_labels(root: Path) -> Iterator[Path]:
    """Yield the first text files that are in a folder of labels or next to a photo with their name."""
    num_folders = num_files = 0
    for here, folders, names in os.walk(root):
        num_folders += 1
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        labels = sorted(filter(_is_label_file, names))
        stems = {without_suffix(name) for name in names if is_photo(name)} if labels else set()
        in_labels = _is_in(os.path.relpath(here, root).split(os.sep), LABEL_FOLDERS)
        for name in labels:
            if in_labels or without_suffix(name) in stems:
                num_files += 1
                yield Path(here, name)
                if num_files == CHECKED_FILES:
                    return
        if num_folders == CHECKED_FOLDERS:
            return


def _is_label_file(name: str) -> bool:
    name = name.lower()
    return name.endswith(LABEL_SUFFIX) and name != "classes.txt" and not name.startswith(("readme", "."))


def _is_in(folders: list[str], names: tuple[str, ...]) -> bool:
    return any(folder.lower() in names for folder in folders)


def read(root: Path, notes: Notes) -> dict[str, list[AnnotatedImage]]:
    """Return the photos of each split.

    Raises:
        ValueError: there are no photos, labels or names, or the labels are boxes.
    """
    files = list_files(root, notes)
    photos, labels = _pair_up(root, files, notes)
    try:
        config = find_config(root, notes)
    except ValueError:
        _check_outlines(root, list(labels.values()), 0, notes)  # names would not help if there are only boxes
        raise
    _check_outlines(root, list(labels.values()), config.num_pose, notes)
    owners = {}  # photo of each label file
    splits = defaultdict(list)
    for name, split in split_photos(config, photos, files, notes).items():
        label = labels.get(name)
        where = str(label or photos[name])
        image = AnnotatedImage(photos[name], where, name, loaded([]), normalized=True)
        if label is None:
            notes.add(WITHOUT_LABELS, where, photos[name])
        else:
            image.objects = _reader(label, owners.setdefault(label, photos[name]), photos[name], config, notes)
        splits[split].append(image)
    return ordered(splits)


def _reader(
    label: Path, owner: Path, photo: Path, config: YoloConfig, notes: Notes
) -> Callable[[], list[AnnotatedObject]]:
    def objects() -> list[AnnotatedObject]:
        if owner != photo:
            raise ValueError(
                f"{photo}: its label file {label.name} is also that of {owner.name}; rename or remove "
                "one of the photos."
            )
        return read_objects(label, str(label), config.names, config.num_pose, notes, photo)

    return objects


def _pair_up(root: Path, files: dict[str, Path], notes: Notes) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the photos, and the label files of the photos that have one, both by the photos' relative paths."""
    texts = {name: path for name, path in files.items() if _is_label_file(name.rpartition("/")[2])}
    images = [name for name in files if is_photo(name)]
    with_folder = any(_is_in(folders_of(name), IMAGE_FOLDERS) for name in images)
    photos, labels, used = {}, {}, set()
    for name in images:
        folders = folders_of(name)
        if with_folder and _is_in(folders, LABEL_FOLDERS) and not _is_in(folders, IMAGE_FOLDERS):
            label = None  # a picture of the labels
        else:
            label = next((text for text in _label_names(name) if text in texts), None)
        if label:
            labels[name] = texts[label]
            used.add(label)
        elif with_folder and not _is_in(folders, IMAGE_FOLDERS):
            notes.add(OTHER_IMAGES, str(files[name]), files[name])
            continue
        photos[name] = files[name]
    _pair_uploads(photos, labels, {name: path for name, path in texts.items() if name not in used}, notes)
    if not photos:
        raise ValueError(
            f"{root}: contains YOLO label files, but no photo; put the photos into images/, or export the data set "
            "with its images."
        )
    if not labels:
        first = next(iter(photos))
        raise ValueError(
            f"{root}: none of the {count_of(len(photos), 'photo')} has a YOLO label file; the labels of {first} must "
            f"be in {next(_label_names(first))}."
        )
    return photos, labels


def _label_names(name: str) -> Iterator[str]:
    """Yield the relative paths that the label file of a photo can have, the most likely first."""
    *folders, file_name = without_suffix(name).split("/")
    places = [at for at in reversed(range(len(folders))) if folders[at].lower() in IMAGE_FOLDERS]
    others = [at for at in reversed(range(len(folders))) if at not in places]

    def replaced(at: int) -> Iterator[str]:
        for label_folder in LABEL_FOLDERS:
            yield "/".join([*folders[:at], label_folder, *folders[at + 1 :], file_name]) + LABEL_SUFFIX

    for at in places:
        yield from replaced(at)
    yield without_suffix(name) + LABEL_SUFFIX
    yield from ("/".join([*folders, label_folder, file_name]) + LABEL_SUFFIX for label_folder in LABEL_FOLDERS)
    for at in others:
        yield from replaced(at)


def _pair_uploads(photos: dict[str, Path], labels: dict[str, Path], unused: dict[str, Path], notes: Notes) -> None:
    """Add label files that have Label Studio's prefix to `labels`. Note the other label files without a photo."""
    by_stem = defaultdict(list)
    for name in photos:
        if name not in labels:
            by_stem[_upload_key(without_suffix(name.rpartition("/")[2]))].append(name)
    for name, path in unused.items():
        match = UPLOAD.fullmatch(without_suffix(name.rpartition("/")[2]))
        owners = by_stem.get(_upload_key(match[1]), []) if match else []
        if len(owners) == 1 and owners[0] not in labels:
            labels[owners[0]] = path
            notes.add(NO_PREFIX, f"{path} is of {photos[owners[0]].name}", photos[owners[0]])
        elif _is_in(folders_of(name), LABEL_FOLDERS) or any(map(is_label, first_text(path, START).splitlines())):
            notes.add(WITHOUT_PHOTO, str(path))


def _upload_key(stem: str) -> str:
    """Return the stem of a file name as Label Studio changes it: "a (1)" is "a_1"."""
    return re.sub(r"[^-\w.]", "", stem.strip().replace(" ", "_"))


def _check_outlines(root: Path, files: list[Path], num_pose: int, notes: Notes) -> None:
    """Raise an error if no label file has a polygon. Files are read until there is one that is no oriented box."""
    num_boxes = num_lines = num_corners = 0
    for file in dict.fromkeys(files):
        lines = _lines_of(file)
        num_lines += len(lines)
        num_boxes += sum(len(line.values) in BOX_NUMBERS for line in lines)
        if has_polygon(lines, num_pose):
            if any(len(line.values) >= MIN_NUMBERS and len(line.values) != FOUR_CORNERS for line in lines):
                return
            num_corners += 1
        elif num_pose:
            num_boxes += len(lines)
    if num_corners:
        notes.add(ORIENTED, str(root))
    elif num_boxes:
        kind = "boxes with keypoints" if num_pose else "boxes (class, x, y, width, height)"
        raise ValueError(
            f"{root}: its YOLO labels are {kind}, but masks need outlines; export segmentation labels: in Roboflow "
            '"YOLOv8" of an instance segmentation project, in CVAT "Ultralytics YOLO Segmentation" with polygons.'
        )
    elif not num_lines:
        raise ValueError(f"{root}: all {count_of(len(files), 'YOLO label file')} are empty; annotate some photos.")


def _lines_of(file: Path) -> list[LabelLine]:
    """Return the lines of a label file; [] if it cannot be read: its photo raises the error later."""
    try:
        return read_lines(file)
    except ValueError:
        return []


FORMAT = AnnotationFormat("YOLO segmentation labels", recognizes, read)
