"""Find the files of an export that contain the annotations of many photos, and the folders of these photos."""

import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from .tool_folders import SYSTEM_FOLDER, head_of

MOST_FILES = 50  # that are opened in a folder to recognize its format


def find_files(folder: Path, suffix: str, is_known: Callable[[str], bool], most: int | None = None) -> list[Path]:
    """Return the sorted files of a format in a folder and in its folders, without hidden files.

    Args:
        folder: the data folder.
        suffix: such as ".json", in any case.
        is_known: whether the first characters of a file, without spaces before them, are of this format.
        most: number of files to open per folder; None for all.
    """
    found, (top, folders) = [], _listed(folder)
    for place, names in [(folder, top), *((path, _listed(path)[0]) for path in folders)]:
        files = (place / name for name in names if os.path.splitext(name)[1].lower() == suffix)
        chosen = islice((path for path in files if path.is_file()), most)
        found += [path for path in chosen if is_known(head_of(path).lstrip())]
    return found


def _listed(folder: Path) -> tuple[list[str], list[Path]]:
    """Return the sorted names in a folder, and the folders in it."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if entry.name[0] != "." and entry.name != SYSTEM_FOLDER]
            folders = sorted(entry.name for entry in visible if entry.is_dir())
    except OSError:
        return [], []
    return sorted(entry.name for entry in visible), [folder / name for name in folders]


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
