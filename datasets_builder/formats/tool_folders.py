"""Look through the folders that labelling tools export: their JSON files, photos and splits."""

import functools
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from .coco_files import SPLIT_WORDS
from .photo_names import UNREADABLE_SUFFIXES

SYSTEM_FOLDER = "__MACOSX"  # in ZIP files of macOS, besides hidden files
HEAD = 4096  # bytes that show the format of a file
# Words in names of folders and files beside the split, such as "train_images" or "instances_val"
BESIDE_SPLITS = {"image", "images", "img", "imgs", "photo", "photos", "label", "labels", "ann", "annotation"}
BESIDE_SPLITS |= {"annotations", "json", "jsons", "set", "data", "dataset", "instances", "split", "subset"}


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield (folder, names of its folders, names of its files), sorted, without hidden and system files.

    Links are followed. A folder that is reached twice is yielded once.
    """
    seen = set()
    for here, folders, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(here)) in seen:  # a link to a parent folder
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != SYSTEM_FOLDER)
        yield Path(here), folders, sorted(name for name in names if not name.startswith("."))


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


def name_key(name: str) -> str:
    """Return a name without differences in Unicode's forms (macOS decomposes names) and in upper and lower case."""
    return unicodedata.normalize("NFC", name).casefold()


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


def by_split(photos: list, splits: list[str | None]) -> dict[str, list]:
    """Return the photos of each split in the order train, validation, test. Photos without a split are in train."""
    found = {split: [] for split in dict.fromkeys(SPLIT_WORDS.values())}
    for photo, split in zip(photos, splits, strict=True):
        found[split or "train"].append(photo)
    return {split: photos for split, photos in found.items() if photos}
