"""Look through the folders that labelling tools export: their annotation files, photos and splits."""

import functools
import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from PIL import Image

from .coco_files import SPLIT_WORDS
from .file_search import visible, walk
from .photo_names import UNREADABLE_SUFFIXES

MOST_FILES = 50  # that are opened in a folder to recognize its format
HEAD = 4096  # bytes that show the format of a file
# Words in names of folders and files beside the split, such as "train_images" or "instances_val"
BESIDE_SPLITS = {"image", "images", "img", "imgs", "photo", "photos", "label", "labels", "ann", "annotation"}
BESIDE_SPLITS |= {"annotations", "json", "jsons", "set", "data", "dataset", "instances", "split", "subset"}


def files_below(root: Path, suffixes: set[str]) -> Iterator[Path]:
    """Yield the files below a folder that have one of the suffixes, in any case."""
    for folder, _, names in walk(root):
        yield from (folder / name for name in names if os.path.splitext(name)[1].lower() in suffixes)


@functools.cache
def photo_suffixes() -> set[str]:
    """Return the suffixes of photos, also of formats that Pillow cannot always open."""
    readable = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return readable | UNREADABLE_SUFFIXES


def head_of(file: Path) -> str:
    """Return the first characters of a file; "" if it cannot be read."""
    try:
        with file.open("rb") as opened:
            return opened.read(HEAD).decode("utf-8-sig", "replace")
    except OSError:
        return ""


def split_in(path: Path | str) -> str | None:
    """Return the split that the last folder or file with a split in its name states, or None.

    "val/labels/1.json" and "val_images/1.json" are in validation. "test bench/1.json" is in no split.

    path: relative to the data folder.
    """
    for part in reversed(Path(path).parts):
        words = set(re.findall(r"[^\W\d_]+", os.path.splitext(part)[0].lower()))
        splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
        if len(splits) == 1 and words <= BESIDE_SPLITS | SPLIT_WORDS.keys():
            return splits.pop()
    return None


def is_in_other_split(photo: Path, split: str | None, root: Path) -> bool:
    """Return whether the folders of a photo state another split. root: the data folder."""
    return split is not None and split_in(os.path.relpath(photo.parent, root)) not in (None, split)


def by_split(photos: list, splits: list[str | None]) -> dict[str, list]:
    """Return the photos of each split in the order train, validation, test. Photos without a split are in train."""
    found = {split: [] for split in dict.fromkeys(SPLIT_WORDS.values())}
    for photo, split in zip(photos, splits, strict=True):
        found[split or "train"].append(photo)
    return {split: photos for split, photos in found.items() if photos}


def find_files(folder: Path, suffix: str, is_known: Callable[[str], bool], most: int | None = None) -> list[Path]:
    """Return the sorted files of a format in a folder and in its folders, without hidden files.

    Args:
        folder: the data folder.
        suffix: such as ".json", in any case.
        is_known: whether the first characters of a file, without spaces before them, are of this format.
        most: number of files to open per folder; None for all.
    """
    found, (top, folders) = [], visible(str(folder))
    for place, names in [(folder, top), *((folder / name, visible(str(folder / name))[0]) for name in folders)]:
        files = (place / name for name in names if os.path.splitext(name)[1].lower() == suffix)
        chosen = islice((path for path in files if path.is_file()), most)
        found += [path for path in chosen if is_known(head_of(path).lstrip())]
    return found


def photo_folders(file: Path, root: Path, subset: str = "") -> list[Path]:
    """Return the folders in which the photos of an annotation file can be, the most likely first.

    Args:
        file: of the annotations.
        root: the data folder.
        subset: name of the subset of the photos, as the file states it; "" for none.
    """
    images = file.parent / "images"
    named = [images / name for name in (subset, file.stem) if name and Path(name).name == name]
    folders = [*named, images, file.parent, root / "images", root]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
