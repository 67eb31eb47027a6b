"""Find COCO JSON files and their images, and read them with a check of each record."""

import contextlib
import functools
import gc
import hashlib
import json
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from gemma_lisa.safety.short_text import listed, name_of, shorten, show

from .annotated import Notes
from .coco_photos import PhotoFinder
from .coco_records import (
    BROKEN,
    category_names,
    checked_images,
    join_annotations,
)
from .file_search import largest, matching, visible, walk
from .json_files import read_json, refuse
from .json_kinds import INSTANCES, NOT_JSON, advice_for, describe, kind_of_file, kind_of_json

ROBOFLOW = "_annotations.coco.json"  # in each split's folder, next to its images
# Patterns of JSON files, in order; the first that matches a COCO instances file is used.
PATTERNS = (
    "annotations/instances_*.json",
    f"*/{ROBOFLOW}",
    "*.json",
    "annotations/*.json",
    "*/labels.json",  # FiftyOne, next to data/
    "*/annotations.json",
    "labels/*.json",
    "annotations/*/*.json",
)
PATTERNS_OF_SPLIT = ("*.json", "annotations/*.json", "labels/*.json")  # in train/, val/, ...
MAX_KINDS = 1_000  # number of files whose kind is looked at to find files that are not used
LONGEST_PATH = 500  # characters of a path in an error
IMAGES, DATA = "images", "data"  # folders of photos, the second of FiftyOne
SKIPPED = "skipped JSON files that are no COCO instances files"
NOT_USED = "skipped COCO files because others were found first; to read them, set the option annotations"
MAX_PROBED = 100  # number of file names that are looked for to find the folder of the photos
SPLIT_WORDS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


class CocoContent(NamedTuple):
    """The records of a COCO instances file."""

    images: list[dict]
    annotations: dict[Any, list[dict]]  # by image id
    names: dict[Any, str]  # of the categories by id, with spaces for underscores
    contributor: str  # `info.contributor`, or ""


def find_annotations(root: Path, named: str | dict[str, str] | None, notes: Notes | None = None) -> dict[str, Path]:
    """Return the JSON file of each split.

    Args:
        root: absolute path of the data folder.
        named: paths relative to root: one file, or one for each split; None to search PATTERNS. Without given splits,
            the names of the files and their folders define them. A single file without a split in its name is "train".
        notes: counts other JSON files, which are skipped.

    Raises:
        ValueError: there is no file, or the splits are ambiguous.
    """
    if isinstance(named, dict):
        files = {split: root / name for split, name in named.items()}
    else:
        found = _search(root, notes) if named is None else [root / named]
        splits = [_split_of(path, root) or ("train" if len(found) == 1 else None) for path in found]
        if None in splits or len(set(splits)) < len(splits):
            names = [path.relative_to(root).as_posix() for path in found]
            raise ValueError(
                f"{root}: cannot tell the splits of {listed(names)}; set the option annotations of "
                "coco_instances, such as "
                f"{json.dumps(_example(names, splits), ensure_ascii=False)}."
            )
        files = dict(zip(splits, found, strict=True))
    for path in files.values():
        if not exists(path, Path.is_file):
            raise ValueError(
                f"{shorten(str(path), LONGEST_PATH)}: no such file; write the option annotations relative to {root}."
            )
    return files


def has_coco(root: Path) -> bool:
    """Return whether a folder contains a COCO instances file where `find_annotations` searches."""
    return any(kind_of_file(path) == INSTANCES for paths in _matches(root) for path in largest(paths))


def _search(root: Path, notes: Notes | None) -> list[Path]:
    """Return the COCO instances files of the first pattern that has any.

    If there is no other JSON file, files that are not JSON are returned: reading them raises the exact error.
    """
    found, others = [], {}
    for paths in _matches(root):
        if found and notes is None:
            break
        kinds = {path: kind_of_file(path) for path in paths if path not in others and path not in found}
        for path, kind in kinds.items():
            if kind != INSTANCES:
                others[path] = kind
        coco = [path for path, kind in kinds.items() if kind == INSTANCES]
        if not found:
            found = coco
        elif len(others) < MAX_KINDS:
            others |= dict.fromkeys(coco, INSTANCES)
        else:
            break
    if found:
        for path, kind in others.items() if notes is not None else ():
            notes.add(NOT_USED if kind == INSTANCES else SKIPPED, f"{path} ({kind or 'unknown content'})")
        return found
    damaged = [path for path, kind in others.items() if kind == NOT_JSON]
    if others and len(damaged) == len(others):
        return next(filter(None, _matches(root)))
    if others:
        what = f"found only {listed(path.relative_to(root).as_posix() for path in others)}; add the COCO file"
        for path, kind in others.items():
            if kind not in (None, NOT_JSON):
                what = f"{path.relative_to(root).as_posix()} is {kind}; {advice_for(kind)}"
                break
        advice = "or set the option annotations of coco_instances to its path"
        raise ValueError(f"{root}: no COCO JSON file found: {what}, {advice}.")
    raise ValueError(
        f"{root}: no COCO JSON file found as {' or '.join(PATTERNS[:4])}; set the option annotations of "
        "coco_instances to its path."
    )


def _matches(root: Path) -> Iterator[list[Path]]:
    """Yield the sorted JSON files of each pattern, without hidden files and those of __MACOSX."""
    listing = functools.cache(visible)
    for pattern in PATTERNS:
        yield matching(root, pattern, listing)
    folders = [root / name for name in listing(str(root))[1] if name.lower() in SPLIT_WORDS]
    for pattern in PATTERNS_OF_SPLIT:
        yield [path for folder in folders for path in matching(folder, pattern, listing)]


def _example(names: list[str], splits: list[str | None]) -> dict[str, str]:
    """Return an example of the option annotations with the names of real files."""
    example = {split: name for name, split in reversed(list(zip(names, splits, strict=True))) if split}
    if not example:
        example = dict(zip(dict.fromkeys(SPLIT_WORDS.values()), names, strict=False))
    return example


def exists(path: Path, kind: Callable[[Path], bool]) -> bool:
    """Return whether a path is a file or folder; False for a name that the file system does not support."""
    try:
        return kind(path)
    except (OSError, ValueError):
        return False


def _split_of(path: Path, root: Path) -> str | None:
    """Return the split in a file name, or in the folders below root: annotations/instances_val2017.json, valid/a.json.

    Roboflow's file can be in the data folder itself, whose name then defines the split.
    """
    names = [path.stem, *(folder.name for folder in path.parents if folder != root and folder.is_relative_to(root))]
    if path.name == ROBOFLOW:
        names = [path.parent.name]
    for name in names:
        splits = {SPLIT_WORDS[word] for word in re.findall("[a-z]+", name.lower()) if word in SPLIT_WORDS}
        if len(splits) == 1:
            return splits.pop()
    return None


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


def photo_finder(
    file: Path, root: Path, images_folder: Path | None, file_names: Iterable[str], notes: Notes | None = None
) -> PhotoFinder:
    """Return a finder of the photos of a JSON file.

    Args:
        file: the JSON file.
        root: the data folder.
        images_folder: of the option images; None to search the usual places, last the whole data folder.
        file_names: of the images. The folder in which the first of them exists is searched first.
        notes: of `PhotoFinder`.
    """
    places = [images_folder] if images_folder is not None else [*_places(file, root), root]
    places = [place for place in dict.fromkeys(places) if exists(place, Path.is_dir)]
    for name in islice(file_names, MAX_PROBED):
        first = next((place for place in places if _has(place, name)), None)
        if first is not None:
            places = [first, *(place for place in places if place != first)]
            break
    split = _split_of(file, root)
    others = {word for word, meaning in SPLIT_WORDS.items() if split is not None and meaning != split}
    return PhotoFinder(places or [root], root, Notes() if notes is None else notes, others)


def _has(folder: Path, file_name: str) -> bool:
    """Return whether a folder contains a photo at exactly this name."""
    try:
        return path_inside(folder, file_name, (folder,), "").is_file()
    except (OSError, ValueError):
        return False


def _places(file: Path, root: Path) -> list[Path]:
    """Return the folders that can contain the photos of a JSON file, the most likely first."""
    name = file.stem.removeprefix("instances_")  # train2017
    split = _split_of(file, root)
    words = [name, *(word for word, meaning in SPLIT_WORDS.items() if meaning == split)]
    tops = list(dict.fromkeys([file.parent, root]))
    places = [*tops, root / IMAGES, root / name, root / IMAGES / name, file.parent / IMAGES]
    places += [top / DATA for top in tops]
    places += [top / word for top in tops for word in words]
    places += [top / folder / word for top in tops for folder in (IMAGES, DATA) for word in words]
    places += [top / word / folder for top in tops for folder in (IMAGES, DATA) for word in words]
    return [place for place in dict.fromkeys(places) if place.is_relative_to(root)]


def find_folder(file: Path, root: Path, file_names: Iterable[str]) -> Path:
    """Return the folder of the images: the first in which one of the file names exists.

    Args:
        file: the JSON file.
        root: the data folder.
        file_names: of the images.

    Raises:
        ValueError: none of the images exists.
    """
    places, wrong = _places(file, root), None
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
            f"{file}: the image {name_of(file_name)} is in none of {', '.join(map(str, places[:7]))}; set the option "
            "images to its folder, or the option annotations to the JSON files whose images exist."
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
    """Return the sorted paths of all image files below a folder, following links, without hidden ones."""
    suffixes, paths = Image.registered_extensions(), []
    for here, _, names in walk(folder):
        candidates = (os.path.join(here, name) for name in names if os.path.splitext(name)[1].lower() in suffixes)
        paths += [path for path in candidates if os.path.exists(path)]  # without broken links
    return sorted(paths)


def read_coco(
    file: Path,
    tolerate: Callable[[ValueError], None] = refuse,
    notes: Notes | None = None,
) -> CocoContent:
    """Return the records of a JSON file.

    The image and the category of every annotation exist. Names have spaces for underscores. `segmentation` is not
    checked.

    Args:
        file: to read.
        tolerate: called with the error of each bad image or annotation. If it returns, the record is skipped. An
            annotation is kept with the field BROKEN if its class is known, because this class is incomplete in its
            image. If its class is unknown, the image has this field.
        notes: counts what is interpreted: ids as text, missing sizes (height and width are None), category names that
            differ in letter case. None for published data sets: these are errors or stay as they are, and images with a
            bad annotation are skipped.

    Raises:
        ValueError: the file or its categories are not valid; errors raised by `tolerate`, with the file and the record.
    """
    gc.collect()  # before gc.freeze below, which exempts all objects from collection
    content = read_json(file, "export it again", _packed)
    parts = ("images", "annotations", "categories")
    is_coco = kind_of_json(content) == INSTANCES
    if not is_coco or not all(isinstance(content.get(part), list) for part in parts):
        raise ValueError(
            f"{file} is not a COCO instances file, whose top level has the lists {', '.join(parts)}: "
            f"{describe(content)}."
        )
    if not content["images"]:
        raise ValueError(f"{file} contains no images; add some.")
    images, bad = checked_images(file, content["images"], tolerate, notes)
    names = category_names(file, content["categories"], notes)
    of_image = join_annotations(file, content["annotations"], images, bad, names, tolerate, notes)
    valid = list(images.values())
    if notes is None:
        for image in valid:
            if BROKEN in image:
                of_image.pop(image["id"], None)
        valid = [image for image in valid if BROKEN not in image]
    gc.freeze()  # otherwise each collection scans millions of objects while rows are made
    info = content.get("info")
    contributor = info.get("contributor") if isinstance(info, dict) else None
    return CocoContent(valid, of_image, names, contributor if isinstance(contributor, str) else "")


def _packed(record: dict) -> dict:
    """Convert the polygons of a record to arrays of doubles: a list of floats needs four times the memory."""
    polygons = record.get("segmentation")
    if isinstance(polygons, list):
        # other values stay: the error that is raised later names their record
        with contextlib.suppress(TypeError, OverflowError):
            record["segmentation"] = [array("d", part) if isinstance(part, list) else part for part in polygons]
    return record
