"""List folders and find files in them, without hidden and system files. Folders can contain 100,000 files."""

import fnmatch
import heapq
import os
from collections.abc import Callable, Iterator
from pathlib import Path

SYSTEM_FILES = ("thumbs.db", "desktop.ini", "__macosx")  # besides hidden files
MAX_LOOKED_AT = 50  # number of files of a folder that are looked at to recognize its format


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield (folder, names of its folders, names of its files), sorted, without hidden and system files.

    Links are followed. A folder that is reached twice is yielded once. Names that the caller removes from the list of
    folders are not read, as in `os.walk`.
    """
    seen = set()
    for here, folders, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(here)) in seen:  # a link to a parent folder
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(filter(is_visible, folders))
        yield Path(here), folders, sorted(filter(is_visible, names))


def is_visible(name: str) -> bool:
    """Return whether a name is neither hidden nor that of a system file."""
    return not name.startswith(".") and name.lower() not in SYSTEM_FILES


def largest(paths: list[Path]) -> list[Path]:
    """Return the MAX_LOOKED_AT largest files: those with the annotations of many photos, if a folder has many files."""

    def size(path: str) -> int:
        try:
            return os.stat(path).st_size
        except OSError:
            return 0

    if len(paths) <= MAX_LOOKED_AT:
        return paths
    return list(map(Path, heapq.nlargest(MAX_LOOKED_AT, map(str, paths), key=size)))


def matching(root: Path, pattern: str, listing: Callable[[str], tuple[list[str], list[str]]]) -> list[Path]:
    """Return the files of a pattern such as "*/annotations.json", as `Path.glob` does.

    listing: returns the names of the files and of the folders in a folder.
    """
    *above, last = pattern.split("/")
    folders = [str(root)]
    for part in above:
        folders = [os.path.join(here, name) for here in folders for name in fnmatch.filter(listing(here)[1], part)]
    found = [os.path.join(here, name) for here in folders for name in fnmatch.filter(listing(here)[0], last)]
    return list(map(Path, found))


def visible(folder: str) -> tuple[list[str], list[str]]:
    """Return the sorted names of the files and of the folders in a folder, without hidden and system files.

    macOS adds hidden files ("._1.json") to archives.
    """
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_visible(entry.name):
                    (folders if entry.is_dir() else files).append(entry.name)
    except OSError:
        return [], []
    return sorted(files), sorted(folders)
