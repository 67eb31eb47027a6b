"""Find the files of an export that contain the annotations of many photos, and the folders of these photos."""

from collections.abc import Callable
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
    found = []
    for place in [folder, *(path for path in _listed(folder) if path.is_dir())]:
        files = [path for path in _listed(place) if path.suffix.lower() == suffix and path.is_file()]
        found += [path for path in files[:most] if is_known(head_of(path).lstrip())]
    return found


def _listed(folder: Path) -> list[Path]:
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in paths if not path.name.startswith(".") and path.name != SYSTEM_FOLDER]


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
