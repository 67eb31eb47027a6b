"""Read the masks of a user's own folder: the area of each class in a photo, from any of the mask formats."""

import string
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from gemma_lisa.datasets_builder.formats.coco_segmentation import turn_of, unite
from gemma_lisa.datasets_builder.formats.label_maps import class_masks, read_label_map
from gemma_lisa.safety.short_text import listed, name_of, show

from .folder_classes import clean
from .folder_files import MASKS, Photo

BACKGROUND, THING = 0, 1  # numbers in a mask of one object that also has ignored pixels
NAMELESS = "mask"  # in masks/1_mask.png, "mask" is not a class name
LOSSY = (".jpg", ".jpeg")


class Area(NamedTuple):
    """The mask of a class in a photo, or None if it is not there; and the ignore region, or None."""

    mask: dict | None
    ignore: dict | None


class MaskReader:
    """Read masks with named class numbers, and remember the numbers used in masks of a single object.

    Args:
        names: class names by number; {} if there are none.
        ignore_value: number of ignored pixels; 0 for none.
    """

    def __init__(self, names: dict[int, str], ignore_value: int):
        self.names, self.ignore_value = names, ignore_value
        self._only_ignored: Path | None = None  # the first mask whose object has this number
        self._otherwise: Path | None = None  # and the first whose object has another number

    def areas(self, photo: Photo) -> dict[str | None, Area]:
        """Return the areas marked in a photo by class name; the key is None for a mask without a name.

        Raises:
            ValueError: the photo has no mask, or a mask has another size or unknown classes or cannot be read.
        """
        if not photo.masks:
            raise ValueError(
                f"{photo.path}: the photo has no mask; add {MASKS}/{photo.path.stem}.png or its LabelMe file, or "
                "remove the photo."
            )
        found = defaultdict(list)
        for rest, path in photo.masks:
            name = self._name_of_file(rest, path)
            areas = self._map(path, photo) if name is None else {name: self.thing(path, photo)}
            for called, area in areas.items():
                found[called].append(area)
        return {name: _united(areas) for name, areas in found.items()}

    def thing(self, path: Path, photo: Photo) -> Area:
        """Return the area of a mask of one object: all pixels that are neither 0 nor ignored."""
        masks = class_masks(_numbers(path, photo))
        masks.pop(BACKGROUND, None)
        ignore = masks.pop(self.ignore_value, None)
        if ignore and set(masks) - {THING}:
            raise ValueError(
                f"{path}: has {len(masks) + 1} numbers besides 0, and one is ignore_value ({self.ignore_value}). If "
                "it is one object with soft edges, save it without anti-aliasing or set ignore_value to 0. If it has "
                "several classes, name them in classes.txt."
            )
        if masks:
            self._otherwise = self._otherwise or path
            return Area(unite(list(masks.values())), ignore)
        if ignore:
            self._only_ignored = self._only_ignored or path
        return Area(ignore, None)

    def of_class(self, path: Path, photo: Photo, label: str, where: str) -> Area:
        """Return the area of one class of a label map; the area of the whole mask if there are no class names."""
        if not self.names:
            return self.thing(path, photo)
        return pick(self._map(path, photo), label, f"{where}: {path.name}", "leave class empty to use the whole mask")

    def check_agreement(self) -> None:
        """Raise an error if `ignore_value` is the object in one mask, while other masks use another number."""
        if self._only_ignored and self._otherwise:
            raise ValueError(
                f"{self._only_ignored}: marks the object with {self.ignore_value}, but {self._otherwise} marks it with "
                f"another number, and there {self.ignore_value} is ignored. Set ignore_value to 0 if every number "
                "except 0 is the object; otherwise mark the object with 1."
            )

    def _map(self, path: Path, photo: Photo) -> dict[str | None, Area]:
        if not self.names:
            return {None: self.thing(path, photo)}
        masks = class_masks(_numbers(path, photo))
        masks.pop(BACKGROUND, None)
        if len(self.names) == 1 and set(masks) == {self.ignore_value} and not set(masks) & set(self.names):
            return {next(iter(self.names.values())): self.thing(path, photo)}
        if len(self.names) == 1 and masks:
            self._otherwise = self._otherwise or path
        ignore = None if self.ignore_value in self.names else masks.pop(self.ignore_value, None)
        if unknown := sorted(set(masks) - set(self.names)):
            known = listed(f"{number} {name_of(name)}" for number, name in sorted(self.names.items()))
            raise ValueError(
                f"{path}: contains the number {unknown[0]}, which is not a class; the classes are: {known}."
            )
        found = defaultdict(list)
        for number, mask in masks.items():
            found[self.names[number]].append(mask)
        return {name: Area(unite(same), ignore) for name, same in found.items()}

    def _name_of_file(self, rest: str | None, path: Path) -> str | None:
        """Return the class in a mask's file name; None if the name is only that of the photo."""
        if rest is None or (clean(rest) == NAMELESS and NAMELESS not in self.names.values()):
            return None
        if rest.isdecimal():
            if int(rest) not in self.names:
                raise ValueError(
                    f"{path}: {rest} is not a class name; rename the file, such as {path.stem}_cat, or name {rest} in "
                    "classes.txt."
                )
            return self.names[int(rest)]
        return self.class_of(clean(rest), path)

    def class_of(self, name: str, where: Path | str) -> str:
        """Return the name as it is in the list of classes, if there is one. "cat 2" is then a second cat."""
        known = {one.casefold(): one for one in self.names.values()}
        numberless = name.rstrip(string.digits)
        for candidate in (name, numberless if numberless == name else numberless.rstrip(" -")):
            if candidate.casefold() in known:
                return known[candidate.casefold()]
        if known:
            raise ValueError(f"{where}: {show(name)} is not a class; the classes are: {listed(known.values())}.")
        return name


def pick(areas: dict[str | None, Area], label: str, where: str, advice: str) -> Area:
    """Return the area of the class that a question names."""
    shown = {name.casefold(): area for name, area in areas.items() if name and area.mask}
    if clean(label).casefold() in shown:
        return shown[clean(label).casefold()]
    names = listed(name for name, area in areas.items() if name and area.mask) or "no named class"
    raise ValueError(f"{where}: {show(label)} is not marked in it, only {names}; {advice}.")


def _numbers(path: Path, photo: Photo) -> np.ndarray:
    """Return the numbers (H, W) of a mask, aligned with the upright photo."""
    if path.suffix.lower() in LOSSY:
        raise ValueError(f"{path}: JPEG compression changes the numbers of a mask; export it again as PNG.")
    try:
        numbers = read_label_map(path)
    except ValueError as error:
        raise ValueError(f"{error} A mask must be a grayscale or palette PNG file.") from error
    method = turn_of(photo.path, numbers.shape, str(path))
    return numbers if method is None else np.asarray(Image.fromarray(numbers).transpose(method))


def _united(areas: list[Area]) -> Area:
    masks, ignored = ([mask for mask in masks if mask] for masks in zip(*areas, strict=True))
    return Area(unite(masks) if masks else None, unite(ignored) if ignored else None)
