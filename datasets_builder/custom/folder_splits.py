"""Divide the photos of a user's own folder into training and validation."""

import hashlib
import math
import os
from collections import defaultdict
from pathlib import Path

from .folder_files import Photo


def split_up(photos: dict[str, Photo], validation_share: float) -> tuple[dict[str, list[Photo]], list[ValueError]]:
    """Divide the photos of a folder without splits.

    A photo is in the split that its questions name. Of the other photos, `validation_share`, rounded, becomes
    validation: those with the smallest hashes of their names. The choice is the same on every machine, and adding a
    photo moves only photos near the cut. Files with the same content are never divided.

    Args:
        photos: by stem.
        validation_share: from 0 to less than 1. Above 0, at least one photo becomes validation and one stays in
            train, unless all photos have the same content.

    Returns:
        the photos of each split that has any, in the order of `photos`; one error for each photo that its questions
        put into two splits.
    """
    split_of, errors = {}, []  # by stem; None: the questions of the photo name no split
    for stem, photo in photos.items():
        named = {question.split: question.where for question in photo.questions if question.split}
        if len(named) > 1:
            (one, here), (other, there) = list(named.items())[:2]
            errors.append(ValueError(f"{there}: split of {photo.path.name} is {other}, but {here} has {one}; use one."))
        else:
            split_of[stem] = next(iter(named), None)
    if validation_share:
        free = []  # groups of photos whose split is chosen here
        for group in _same_files([photo for stem, photo in photos.items() if stem in split_of]):
            open_stems = [stem for stem in group if split_of[stem] is None]
            if named := [split_of[stem] for stem in group if split_of[stem] is not None]:
                split_of.update(dict.fromkeys(open_stems, named[0]))  # copies of a photo that has a split
            else:
                free.append(open_stems)
        split_of.update(dict.fromkeys(_choose(free, validation_share), "validation"))
    found = defaultdict(list)
    for stem, split in split_of.items():
        found[split or "train"].append(photos[stem])
    return dict(found), errors


def _choose(groups: list[list[str]], share: float) -> set[str]:
    """Return the stems that become validation: whole groups, in the order of their hashes."""
    if len(groups) < 2:
        return set()
    groups = sorted(groups, key=lambda group: min(map(_place, group)))
    total = sum(map(len, groups))
    wanted = min(max(1, math.floor(share * total + 0.5)), total - 1)
    chosen, num_chosen = set(), 0
    for group in groups:
        if num_chosen + len(group) <= wanted:
            chosen.update(group)
            num_chosen += len(group)
    return chosen or set(min(groups, key=len))


def _place(stem: str) -> bytes:
    return hashlib.sha256(stem.encode()).digest()


def _same_files(photos: list[Photo]) -> list[list[str]]:
    """Return the stems in groups of equal file content. Only files of equal size are read."""
    by_size = defaultdict(list)
    for photo in photos:
        by_size[photo.path.stat().st_size].append(photo)
    groups = []
    for same_size in by_size.values():
        by_content = defaultdict(list)
        for photo in same_size:
            by_content[_content(photo.path) if len(same_size) > 1 else b""].append(photo.stem)
        groups += by_content.values()
    return groups


def _content(path: Path) -> bytes:
    """Return the hash of a file's content, or of its path if it cannot be read: its error is raised elsewhere."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return hashlib.sha256(os.fsencode(path)).digest()
