"""Find the annotation files in a data folder, and the splits that their names state."""

import re
from collections.abc import Iterable
from pathlib import Path

from .annotated import AnnotatedImage
from .coco_files import SPLIT_WORDS

HEAD = 16_384  # bytes that show the format of a file
MOST_FILES = 50  # that are opened in a folder to recognize its format
SYSTEM_FOLDERS = ("__macosx",)


def files_in(folder: Path, suffix: str, most: int | None = None) -> list[Path]:
    """Return the sorted files with a suffix in a folder and in its folders, without hidden files.

    Args:
        folder: the data folder.
        suffix: such as ".json", in any case.
        most: number of files to return per folder; None for all.
    """
    found = []
    for place in [folder, *(path for path in _listed(folder) if path.is_dir())]:
        files = [path for path in _listed(place) if path.suffix.lower() == suffix and path.is_file()]
        found += files[:most]
    return found


def _listed(folder: Path) -> list[Path]:
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in paths if not path.name.startswith(".") and path.name.lower() not in SYSTEM_FOLDERS]


def head_of(file: Path) -> str:
    """Return the first characters of a file; "" if it cannot be read."""
    try:
        with file.open("rb") as opened:
            start = opened.read(HEAD)
    except OSError:
        return ""
    encoding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return start.decode(encoding, "replace").lstrip()


def split_in(name: str) -> str | None:
    """Return the split that a name states, such as "train2017" or "instances_val", or None."""
    splits = {SPLIT_WORDS[word] for word in re.findall("[a-z]+", name.lower()) if word in SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 else None


def split_of_file(file: Path, root: Path) -> str | None:
    """Return the split that the name of a file states, or else that of its folder below the data folder, or None."""
    return split_in(file.stem) or (split_in(file.parent.name) if file.parent != root else None)


def in_order(images: Iterable[tuple[str, AnnotatedImage]]) -> dict[str, list[AnnotatedImage]]:
    """Return the images of each split, from pairs of a split and an image: train first, then validation and test."""
    splits = {split: [] for split in dict.fromkeys(SPLIT_WORDS.values())}
    for split, image in images:
        splits[split].append(image)
    return {split: of_split for split, of_split in splits.items() if of_split}


def photo_folders(file: Path, root: Path, split: str | None = None) -> list[Path]:
    """Return the folders in which the photos of an annotation file can be, the most likely first.

    Args:
        file: of the annotations.
        root: the data folder.
        split: name of the subset of the photos, as the file states it.
    """
    here = file.parent
    images = [here / "images", here / "images" / file.stem]
    named = [folder / split for folder in images[:1] if split and Path(split).name == split]
    folders = [*named, *images, here, root / "images", root]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
