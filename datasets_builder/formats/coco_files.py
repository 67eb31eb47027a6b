"""Find COCO JSON files and their images, and read them with a check of each record."""

import contextlib
import gc
import hashlib
import os
import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from gemma_lisa.safety.short_text import listed, name_of, shorten, show

from .json_files import read_json, refuse

ROBOFLOW = "_annotations.coco.json"  # in each split's folder, next to its images
# Patterns of JSON files, in order; the first that matches a file is used.
PATTERNS = ("annotations/instances_*.json", f"*/{ROBOFLOW}", "*.json", "annotations/*.json")
LONGEST_SIDE = 2**31 - 1  # pixels: rows store sizes as int32
LONGEST_PATH = 500  # characters of a path in an error
LONGEST_NAME = 1_000  # characters of a category: the time of splitting it into words is quadratic
SPLIT_WORDS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


def find_annotations(root: Path, named: str | dict[str, str] | None) -> dict[str, Path]:
    """Return the JSON file of each split.

    Args:
        root: absolute path of the data folder.
        named: paths relative to root: one file, or one for each split; None to search PATTERNS. Without given splits,
            the file names define them. A single file without a split in its name is "train".

    Raises:
        ValueError: there is no file, or the splits are ambiguous.
    """
    if isinstance(named, dict):
        files = {split: root / name for split, name in named.items()}
    else:
        if named is None:
            found = next(filter(None, (sorted(root.glob(pattern)) for pattern in PATTERNS)), [])
        else:
            found = [root / named]
        if not found:
            raise ValueError(
                f"{root}: no COCO JSON file found as {' or '.join(PATTERNS)}; set the option annotations to its path."
            )
        splits = [_split_of(path) or ("train" if len(found) == 1 else None) for path in found]
        if None in splits or len(set(splits)) < len(splits):
            names = [str(path.relative_to(root)) for path in found]
            raise ValueError(
                f"{root}: cannot tell the splits of {listed(names)}; set the option annotations, such as "
                f'{{"train": "{names[0]}"}}.'
            )
        files = dict(zip(splits, found, strict=True))
    for path in files.values():
        if not exists(path, Path.is_file):
            raise ValueError(
                f"{shorten(str(path), LONGEST_PATH)}: no such file; write the option annotations relative to {root}."
            )
    return files


def exists(path: Path, kind: Callable[[Path], bool]) -> bool:
    """Return whether a path is a file or folder; False for a name that the file system does not support."""
    try:
        return kind(path)
    except (OSError, ValueError):
        return False


def _split_of(path: Path) -> str | None:
    """Return the split in a file name: annotations/instances_val2017.json, valid/_annotations.coco.json."""
    name = path.parent.name if path.name == ROBOFLOW else path.stem
    splits = {SPLIT_WORDS[word] for word in re.findall("[a-z]+", name.lower()) if word in SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 else None


def name_folders(root: Path, named: str | dict[str, str] | None, splits: dict[str, Path]) -> dict[str, Path]:
    """Return the image folder of each split.

    Args:
        root: absolute path of the data folder.
        named: one folder for all splits, or one for each split, relative to root; None returns {}.
        splits: the JSON file of each split.

    Raises:
        ValueError: a folder is missing.
    """
    if named is None:
        return {}
    named = named if isinstance(named, dict) else dict.fromkeys(splits, named)
    if missing := set(splits) - set(named):
        raise ValueError(f"{root}: the option images has no folder for {', '.join(sorted(missing))}; add it.")
    folders = {split: Path(os.path.abspath(root / named[split])) for split in splits}
    for folder in folders.values():
        if not exists(folder, Path.is_dir):
            raise ValueError(
                f"{shorten(str(folder), LONGEST_PATH)}: no such folder; write the option images relative to {root}."
            )
    return folders


def find_folder(file: Path, root: Path, file_names: Iterable[str]) -> Path:
    """Return the folder of the images: the first in which one of the file names exists.

    Args:
        file: the JSON file.
        root: the data folder.
        file_names: of the images.

    Raises:
        ValueError: none of the images exists.
    """
    name = file.stem.removeprefix("instances_")  # train2017
    places = [file.parent, root, root / "images", root / name, root / "images" / name, file.parent / "images"]
    wrong = None
    for file_name in file_names:
        try:
            for folder in places:
                if path_inside(folder, file_name, (folder, root), str(file)).is_file():
                    return folder
        except OSError as error:  # not a valid file name
            wrong = wrong or ValueError(f"{file}: the image {show(file_name)}: {error.strerror}.")
            continue
        except ValueError as error:
            wrong = wrong or error
            continue
        wrong = wrong or ValueError(
            f"{file}: the image {name_of(file_name)} is in none of {', '.join(dict.fromkeys(map(str, places)))}; set "
            "the option images to its folder, or the option annotations to the JSON files whose images exist."
        )
    raise wrong


def path_inside(folder: Path, file_name: str, roots: tuple[Path, ...], where: str) -> Path:
    """Return the path of an image, which must be in one of the roots by its name: folders can be links."""
    path = Path(os.path.normpath(folder / file_name.replace("\\", "/")))
    if not any(path.is_relative_to(root) for root in roots):
        raise ValueError(
            f"{where}: file_name {show(file_name)} is outside of {roots[-1]}; write it relative to this folder."
        )
    return path


def fingerprint(files: dict[str, Path], folders: list[Path]) -> str:
    """Return a hash that changes if a JSON file or an image in the folders is changed, added, removed or renamed."""
    state = hashlib.sha256()
    for split, path in sorted(files.items()):
        state.update(f"{split}\0{path}\0{_state_of(path)}\0".encode("utf-8", "surrogateescape"))
    for folder in folders:
        for path in _pictures(folder):
            state.update(f"{path}\0{_state_of(path)}\0".encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def _state_of(path: Path | str) -> str:
    """Return size and time of modification. Hashing the content would read every image at every start."""
    status = os.stat(path)
    return f"{status.st_size} {status.st_mtime_ns}"


def _pictures(folder: Path) -> list[str]:
    """Return the sorted paths of all image files below a folder, following links, without hidden folders."""
    suffixes, paths, seen = Image.registered_extensions(), [], set()
    for here, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(here)) in seen:  # a link to a parent folder
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        candidates = (os.path.join(here, name) for name in names if os.path.splitext(name)[1].lower() in suffixes)
        paths += [path for path in candidates if os.path.exists(path)]  # without broken links
    return sorted(paths)


def read_coco(
    file: Path, tolerate: Callable[[ValueError], None] = refuse
) -> tuple[list[dict], dict[Any, list[dict]], dict[Any, str]]:
    """Return (images, annotations by image id, category names by id) of a JSON file.

    All ids are unique, and the image and the category of every annotation exist. Names have spaces for underscores.

    Args:
        file: to read.
        tolerate: called with the error of each bad image or annotation. If it returns, the whole image is skipped
            because its annotations are incomplete.

    Raises:
        ValueError: the file or its categories are not valid; errors raised by `tolerate`, with the file and the record.
    """
    gc.collect()  # before gc.freeze below, which exempts all objects from collection
    content = read_json(file, "export it again", _packed)
    parts = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
        raise ValueError(f"{file} is not a COCO instances file: the lists {', '.join(parts)} must be at its top level.")
    if not content["images"]:
        raise ValueError(f"{file} contains no images; add some.")
    bad = set()  # ids of the skipped images

    def skip(error: ValueError, *images: Any) -> None:
        tolerate(error)
        bad.update(number for number in images if isinstance(number, int | str))

    def of_images(error: ValueError, *records: dict) -> None:
        skip(error, *(record.get("id") for record in records))

    def of_annotations(error: ValueError, *records: dict) -> None:
        skip(error, *(record.get("image_id") for record in records))

    images = _by_id(file, "image", content["images"], ("file_name", "height", "width"), of_images)
    categories = _by_id(file, "category", content["categories"], ("name",), lambda error, *_: refuse(error))
    annotations = _by_id(file, "annotation", content["annotations"], ("image_id", "category_id"), of_annotations)
    for number, image in images.items():
        if error := _wrong_with_image(image):
            skip(ValueError(f"{file}: image {name_of(number)}: {error}."), number)
    names = _category_names(file, categories)
    of_image = defaultdict(list)
    for number, annotation in annotations.items():
        image = annotation["image_id"]
        if isinstance(image, int | str) and image in bad:
            continue
        if error := _wrong_with_annotation(annotation, images, categories):
            skip(ValueError(f"{file}: annotation {name_of(number)}: {error}."), image)
        else:
            of_image[image].append(annotation)
    gc.freeze()  # otherwise each collection scans millions of objects while rows are made
    return [image for number, image in images.items() if number not in bad], of_image, names


def _wrong_with_image(image: dict) -> str | None:
    name, height, width = image["file_name"], image["height"], image["width"]
    if isinstance(name, str) and all(isinstance(side, int) and 0 < side <= LONGEST_SIDE for side in (height, width)):
        return None
    got = f"got {show(name)}, {show(height)} and {show(width)}"
    return f"file_name must be a string, height and width numbers of pixels, {got}"


def _wrong_with_annotation(annotation: dict, images: dict, categories: dict) -> str | None:
    for kind, known in (("image", images), ("category", categories)):
        named = annotation[f"{kind}_id"]
        if not isinstance(named, int | str) or named not in known:
            return f"there is no {kind} {show(named)}"
    if annotation.get("iscrowd") not in (None, 0, 1):
        return f"iscrowd is {show(annotation['iscrowd'])}, not 0 or 1"
    return None


def _category_names(file: Path, categories: dict[Any, dict]) -> dict[Any, str]:
    """Return the names by id, with spaces for underscores."""
    names = {number: " ".join(str(kind["name"]).replace("_", " ").split()) for number, kind in categories.items()}
    if nameless := [number for number, name in names.items() if not name]:
        raise ValueError(f"{file}: category {name_of(nameless[0])} has no name; add one.")
    if long := [number for number, name in names.items() if len(name) > LONGEST_NAME]:
        raise ValueError(
            f"{file}: the name of category {name_of(long[0])} must have at most {LONGEST_NAME:,} characters, got "
            f"{len(names[long[0]]):,}."
        )
    return names


def _packed(record: dict) -> dict:
    """Convert the polygons of a record to arrays of doubles: a list of floats needs four times the memory."""
    polygons = record.get("segmentation")
    if isinstance(polygons, list):
        # other values stay: the error that is raised later names their record
        with contextlib.suppress(TypeError, OverflowError):
            record["segmentation"] = [array("d", part) if isinstance(part, list) else part for part in polygons]
    return record


def _by_id(file: Path, kind: str, records: list, keys: tuple[str, ...], skip: Callable[..., None]) -> dict[Any, dict]:
    """Return the records by id. skip: called with the error of bad records, and these records."""
    found = {}
    for place, record in enumerate(records):
        if not isinstance(record, dict) or not isinstance(record.get("id"), int | str):
            error = f"{file}: the {kind} at index {place} of its list has no id."
            skip(ValueError(error), *([record] if isinstance(record, dict) else []))
        elif missing := [key for key in keys if record.get(key) is None]:
            skip(ValueError(f"{file}: {kind} {name_of(record['id'])} has no {', '.join(missing)}."), record)
        elif record["id"] in found:
            error = f"{file}: {kind} {name_of(record['id'])} exists twice; every id must be unique."
            skip(ValueError(error), record, found[record["id"]])
        else:
            found[record["id"]] = record
    return found
