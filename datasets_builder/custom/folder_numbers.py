"""Decide by the masks whether a list of class names without numbers counts from 0 or from 1."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from gemma_lisa.datasets_builder.formats.mask_images import class_numbers, read_mask_image

from .folder_classes import CountedNames
from .folder_files import Photo, find_mask
from .folder_names import is_number_map


def decide_numbers(
    names: dict[str, dict[int, str]], splits: dict[str, list[Photo]], ignore_value: int, root: Path
) -> dict[str, dict[int, str]]:
    """Return the class names of each split by their numbers in the masks.

    Call it before `name_masks`, which removes numbers from the file names.

    Args:
        names: of each split. Only `CountedNames` are decided here.
        splits: photos of each split.
        ignore_value: number of ignored pixels; 0 for none.
        root: the data folder.

    Raises:
        ValueError: the masks allow both.
    """
    decided, by_source = {}, {}
    for split, of_split in names.items():
        if not isinstance(of_split, CountedNames):
            decided[split] = of_split
            continue
        if of_split.where not in by_source:
            sharing = [name for name, other in names.items() if getattr(other, "where", None) == of_split.where]
            photos = [photo for name in sharing for photo in splits.get(name, [])]
            by_source[of_split.where] = _decide(of_split, photos, ignore_value, root)
        decided[split] = by_source[of_split.where]
    return decided


def _decide(names: CountedNames, photos: list[Photo], ignore_value: int, root: Path) -> dict[int, str]:
    last = len(names)
    if last == 1:
        return dict(names)
    has_map = has_zero_file = False
    for number, is_file_name in _numbers(photos, last, ignore_value, root):
        if number >= last:
            return dict(names)  # of a larger number, `MaskReader` raises the error
        has_map |= not is_file_name
        has_zero_file |= is_file_name and number == 0
    if has_zero_file:
        return names.from_zero()
    if not has_map:
        return dict(names)
    raise names.ambiguous()


def _numbers(photos: Iterable[Photo], last: int, ignore_value: int, root: Path) -> Iterator[tuple[int, bool]]:
    """Yield the largest number of each mask, and whether it is in the file name instead of the pixels."""
    seen = set()
    for photo in photos:
        for rest, path in _masks(photo, root):
            if rest is not None and rest.isdecimal():
                yield int(rest[:10]), True
            elif is_number_map(rest) and path not in seen:
                seen.add(path)
                if (number := _largest(path, last, ignore_value)) is not None:
                    yield number, False


def _masks(photo: Photo, root: Path) -> Iterator[tuple[str | None, Path]]:
    yield from photo.masks
    for question in photo.questions:
        try:
            path = find_mask(question.mask, photo.folder, root, question.where) if question.mask else None
        except ValueError:
            continue
        if path is not None:
            yield None, path


def _largest(path: Path, last: int, ignore_value: int) -> int | None:
    """Return the largest number in a mask; None if it cannot be read, which is an error of its photo."""
    try:
        numbers = class_numbers(read_mask_image(path), lambda kind: None)
    except (OSError, ValueError):
        return None
    largest = int(numbers.max())
    if largest != ignore_value or largest <= last:
        return largest
    return int(np.max(numbers, where=numbers != ignore_value, initial=0))
