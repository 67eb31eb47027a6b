"""Assign the photos of a YOLO data set to splits: by data.yaml or by the names of folders."""

import os
from collections.abc import Iterable
from pathlib import Path

from gemma_lisa.safety.short_text import show

from .annotated import Notes
from .coco_files import SPLIT_WORDS
from .folder_listing import composed, folders_of, longest_known, read_text, split_of
from .yolo_config import YoloConfig

REPLACED = "paths of splits that do not exist as written; a folder or file of this data set was used"
MISSING = "splits whose folder or file does not exist"
UNLISTED = "skipped photos that are in no split"
LISTED_TWICE = "photos that are listed in two splits; they are only in the first"
LISTED_MISSING = "photos that a list of a split names, but that do not exist"
BY_FOLDER = "data sets whose splits in the YAML file do not exist; the names of folders define the splits"
OUTSIDE = "photos outside of the folders of splits; they are in train"


def split_photos(config: YoloConfig, photos: dict[str, Path], files: dict[str, Path], notes: Notes) -> dict[str, str]:
    """Return the split of each photo by relative path. Photos in no split are noted and not returned.

    Args:
        config: of the data set.
        photos: by relative path.
        files: all files of the data set by relative path.
        notes: counts what was interpreted.
    """
    assigned, missing = {}, []
    for split in dict.fromkeys(SPLIT_WORDS.values()):
        for path in config.splits.get(split, []):
            found = _photos_at(path, config, photos, files, notes)
            if not found:
                missing.append((split, path))
            _assign(found, split, assigned, photos, notes)
    for split, path in missing:
        found = [name for name in photos if split_of(name) == split and name not in assigned]
        notes.add(REPLACED if found else MISSING, f"{config.file}: {split}: {show(path)}")
        _assign(found, split, assigned, photos, notes)
    if not assigned:
        if config.splits:
            notes.add(BY_FOLDER, str(config.file))
        return _by_folder(photos, notes)
    for name in photos:
        if name not in assigned:
            notes.add(UNLISTED, str(photos[name]), photos[name])
    return assigned


def _assign(found: Iterable[str], split: str, assigned: dict[str, str], photos: dict[str, Path], notes: Notes) -> None:
    for name in found:
        if (before := assigned.setdefault(name, split)) != split:
            notes.add(LISTED_TWICE, f"{photos[name]}: {before} and {split}", photos[name])


def _by_folder(photos: dict[str, Path], notes: Notes) -> dict[str, str]:
    """Return the splits that folders name. Photos are in train if no folder names a split."""
    splits = {name: split_of(name) for name in photos}
    with_splits = any(splits.values())
    for name, split in splits.items():
        if split is None:
            splits[name] = "train"
            if with_splits:
                notes.add(OUTSIDE, str(photos[name]), photos[name])
    return splits


def _photos_at(
    path: str, config: YoloConfig, photos: dict[str, Path], files: dict[str, Path], notes: Notes
) -> list[str]:
    """Return the relative paths of the photos in a folder or list of photos; [] if it does not exist."""
    whole = f"{config.folder}/{path}" if config.folder else path
    where = f"{config.file}: {show(path)}"
    if path.lower().endswith(".txt"):
        name = longest_known(whole, files)
        return _listed(name, config, photos, files, notes) if name else []
    folders = {""}
    for name in photos:
        parts = folders_of(name)
        folders.update("/".join(parts[:end]) for end in range(1, len(parts) + 1))
    folder = longest_known(whole, folders)
    if folder is None:
        return []
    if os.path.normpath(whole.replace("\\", "/")) != (folder or "."):
        notes.add(REPLACED, f"{where} is {folder or '.'}/")
    return [name for name in photos if not folder or name.startswith(f"{folder}/")]


def _listed(
    list_name: str, config: YoloConfig, photos: dict[str, Path], files: dict[str, Path], notes: Notes
) -> list[str]:
    """Return the relative paths of the photos in a text file with one path per line."""
    file, found = files[list_name], {}
    before = "/".join(folders_of(list_name))
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        line = line.strip()
        if not line:
            continue
        exact = [os.path.normpath(composed(f"{folder}/{line}")).lstrip("/") for folder in (before, config.folder)]
        name = next((name for name in exact if name in photos), None) or longest_known(line, photos)
        if name:
            found[name] = None
        else:
            notes.add(LISTED_MISSING, f"{file} line {number}: {show(line)}")
    return list(found)
