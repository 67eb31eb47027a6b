"""COCO JSON files on disk: where they and their images lie, and what they say, checked record by record."""

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

from gemma_lisa.safety.short_text import name_of, show

from .json_files import read_json, refuse

ROBOFLOW = "_annotations.coco.json"  # in each split's own folder, beside its images
# Where the JSON files are looked for, in this order; the first pattern that finds any is taken.
PATTERNS = ("annotations/instances_*.json", f"*/{ROBOFLOW}", "*.json", "annotations/*.json")
LONGEST_SIDE = 2**31 - 1  # pixels: rows hold sizes as int32
LONGEST_NAME = 1_000  # characters of a category: how it is divided into words takes quadratic time
SPLIT_WORDS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


def find_annotations(root: Path, named: str | dict[str, str] | None) -> dict[str, Path]:
    """The JSON file of each split.

    Args:
        root: the data folder, absolute.
        named: paths below root: one file, or one for each split; none: found by PATTERNS. Splits not given are read
            off the names; a file without a split's word in its name, if it is the only one, is "train".

    Raises:
        ValueError: there is none, or it cannot be told which is which.
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
                f"{root}: no COCO JSON is there as {' or '.join(PATTERNS)}; the option annotations names it."
            )
        splits = [_split_of(path) or ("train" if len(found) == 1 else None) for path in found]
        if None in splits or len(set(splits)) < len(splits):
            names = [str(path.relative_to(root)) for path in found]
            raise ValueError(
                f"{root}: which split is each of {', '.join(names)}? The option annotations says it: "
                f'{{"train": "{names[0]}", ...}}.'
            )
        files = dict(zip(splits, found, strict=True))
    for path in files.values():
        if not path.is_file():
            raise ValueError(f"{path}: no such file; the option annotations counts from {root}.")
    return files


def _split_of(path: Path) -> str | None:
    """As the name says: annotations/instances_val2017.json, valid/_annotations.coco.json."""
    name = path.parent.name if path.name == ROBOFLOW else path.stem
    splits = {SPLIT_WORDS[word] for word in re.findall("[a-z]+", name.lower()) if word in SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 else None


def name_folders(root: Path, named: str | dict[str, str] | None, splits: dict[str, Path]) -> dict[str, Path]:
    """The image folder of each split as it is given (one for all, or one for each split); {} where none is."""
    if named is None:
        return {}
    named = named if isinstance(named, dict) else dict.fromkeys(splits, named)
    if missing := set(splits) - set(named):
        raise ValueError(f"{root}: the option images names no folder for {', '.join(sorted(missing))}.")
    folders = {split: Path(os.path.abspath(root / named[split])) for split in splits}
    for folder in folders.values():
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder; the option images counts from {root}.")
    return folders


def find_folder(file: Path, root: Path, file_names: Iterable[str]) -> Path:
    """Where images lie: what the first file_name of one that is there counts from.

    file: the JSON file; root: the data folder.
    """
    name = file.stem.removeprefix("instances_")  # train2017
    places = [file.parent, root, root / "images", root / name, root / "images" / name, file.parent / "images"]
    wrong = None
    for file_name in file_names:
        try:
            for folder in places:
                if path_inside(folder, file_name, (folder, root), str(file)).is_file():
                    return folder
        except OSError as error:  # no name of a file
            wrong = wrong or ValueError(f"{file}: its image {show(file_name)}: {error.strerror}.")
            continue
        except ValueError as error:
            wrong = wrong or error
            continue
        wrong = wrong or ValueError(
            f"{file}: its image {name_of(file_name)} is in none of {', '.join(dict.fromkeys(map(str, places)))}; the "
            "option images names its folder, and the option annotations the JSON files whose images are there."
        )
    raise wrong


def path_inside(folder: Path, file_name: str, roots: tuple[Path, ...], where: str) -> Path:
    """The image's path, which must lie in one of the roots; by its name alone, for folders may be links elsewhere."""
    path = Path(os.path.normpath(folder / file_name.replace("\\", "/")))
    if not any(path.is_relative_to(root) for root in roots):
        raise ValueError(f"{where}: file_name {show(file_name)} leads out of {roots[-1]}; write it as seen from there.")
    return path


def fingerprint(files: dict[str, Path], folders: list[Path]) -> str:
    """Changes when a JSON file, or a picture anywhere below the folders, is changed, added, taken out or renamed."""
    state = hashlib.sha256()
    for split, path in sorted(files.items()):
        state.update(f"{split}\0{path}\0{_state_of(path)}\0".encode("utf-8", "surrogateescape"))
    for folder in folders:
        for path in _pictures(folder):
            state.update(f"{path}\0{_state_of(path)}\0".encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def _state_of(path: Path | str) -> str:
    """Size and time of last change; a hash of the content would read every picture at every start."""
    status = os.stat(path)
    return f"{status.st_size} {status.st_mtime_ns}"


def _pictures(folder: Path) -> list[str]:
    """Paths of all picture files below the folder, sorted; not in hidden folders, but behind links to folders."""
    suffixes, paths, seen = Image.registered_extensions(), [], set()
    for here, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(here)) in seen:  # a link back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        candidates = (os.path.join(here, name) for name in names if os.path.splitext(name)[1].lower() in suffixes)
        paths += [path for path in candidates if os.path.exists(path)]  # a broken link is no picture
    return sorted(paths)


def read_coco(
    file: Path, tolerate: Callable[[ValueError], None] = refuse
) -> tuple[list[dict], dict[Any, list[dict]], dict[Any, str]]:
    """(images, annotations by image id, category names by id) of a JSON file.

    Every id is there once, and every annotation's image and category are known. Names have blanks for underscores.

    tolerate: is told of a wrong image or annotation. Where it lets it pass, the image that this is about is left out:
    not all that it shows would be known.

    Raises:
        ValueError: what is wrong with the file or its categories; what tolerate raises, with the file and the record.
    """
    gc.collect()  # for nothing is collected of what is frozen below
    content = read_json(file, "export it again", _packed)
    parts = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
        raise ValueError(f"{file} is no COCO instances file: it needs the lists {', '.join(parts)} at its top.")
    if not content["images"]:
        raise ValueError(f"{file} lists no image; an empty data set teaches nothing.")
    bad = set()  # ids of the images that are left out

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
    gc.freeze()  # else collections go through millions of objects again and again while rows are made
    return [image for number, image in images.items() if number not in bad], of_image, names


def _wrong_with_image(image: dict) -> str | None:
    name, height, width = image["file_name"], image["height"], image["width"]
    if isinstance(name, str) and all(isinstance(side, int) and 0 < side <= LONGEST_SIDE for side in (height, width)):
        return None
    sides = f"height {show(height)} and width {show(width)}"
    return f"file_name {show(name)}, {sides} are not a name and two numbers of pixels"


def _wrong_with_annotation(annotation: dict, images: dict, categories: dict) -> str | None:
    for kind, known in (("image", images), ("category", categories)):
        named = annotation[f"{kind}_id"]
        if not isinstance(named, int | str) or named not in known:
            return f"there is no {kind} {show(named)}"
    if annotation.get("iscrowd") not in (None, 0, 1):
        return f"iscrowd is {show(annotation['iscrowd'])}, not 0 or 1"
    return None


def _category_names(file: Path, categories: dict[Any, dict]) -> dict[Any, str]:
    """The names by id, with blanks for underscores."""
    names = {number: " ".join(str(kind["name"]).replace("_", " ").split()) for number, kind in categories.items()}
    if nameless := [number for number, name in names.items() if not name]:
        raise ValueError(f"{file}: category {name_of(nameless[0])} has no name; it is what is asked for.")
    if long := [number for number, name in names.items() if len(name) > LONGEST_NAME]:
        raise ValueError(
            f"{file}: category {name_of(long[0])} has a name of {len(names[long[0]]):,} characters; at most "
            f"{LONGEST_NAME:,} are read."
        )
    return names


def _packed(record: dict) -> dict:
    """An object of the file with its polygons as arrays of doubles: a list of floats takes four times the memory."""
    polygons = record.get("segmentation")
    if isinstance(polygons, list):
        # what is no list of numbers stays, to be refused with its place
        with contextlib.suppress(TypeError, OverflowError):
            record["segmentation"] = [array("d", part) if isinstance(part, list) else part for part in polygons]
    return record


def _by_id(file: Path, kind: str, records: list, keys: tuple[str, ...], skip: Callable[..., None]) -> dict[Any, dict]:
    """The records by their ids. skip: is given what is wrong, and the records that this is about."""
    found = {}
    for place, record in enumerate(records):
        if not isinstance(record, dict) or not isinstance(record.get("id"), int | str):
            error = f"{file}: the {kind} at place {place} of its list (from 0 on) has no id."
            skip(ValueError(error), *([record] if isinstance(record, dict) else []))
        elif missing := [key for key in keys if record.get(key) is None]:
            skip(ValueError(f"{file}: {kind} {name_of(record['id'])} has no {', '.join(missing)}."), record)
        elif record["id"] in found:
            error = f"{file}: {kind} {name_of(record['id'])} is there twice; every id must be used once."
            skip(ValueError(error), record, found[record["id"]])
        else:
            found[record["id"]] = record
    return found
