"""The masks of a user's own folder: what is marked in a picture, by name, however it is written."""

import string
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from gemma_lisa.datasets_builder.formats.coco_segmentation import turn_of, unite
from gemma_lisa.datasets_builder.formats.label_maps import class_masks, read_label_map
from gemma_lisa.safety.short_text import listed, name_of, show

from .folder_classes import IGNORED, clean
from .folder_files import MASKS, Photo
from .labelme import read_labelme

BACKGROUND, THING = 0, 1  # the thing's number in a mask that also holds pixels that are not counted
NAMELESS = "mask"  # masks/1_mask.png is a mask of something, not of a mask
LOSSY = (".jpg", ".jpeg")


class Area(NamedTuple):
    """A thing in a picture, as rows hold masks: none = it is not there; and what is not counted, or none."""

    mask: dict | None
    ignore: dict | None


class MaskReader:
    """Reads masks by what their numbers are called, and remembers how those of a single thing were written.

    ignore_value: of pixels that are not counted; 0 for none.
    """

    def __init__(self, names: dict[int, str], ignore_value: int):
        self.names, self.ignore_value = names, ignore_value
        self._only_ignored: Path | None = None  # the first mask whose thing has the number of what is not counted
        self._otherwise: Path | None = None  # and the first whose thing has another

    def areas(self, photo: Photo) -> dict[str | None, Area]:
        """What is marked in a picture, by name; none for what has no name.

        Raises:
            ValueError: it has no mask; a mask of another size, of unknown classes, or that cannot be read.
        """
        if photo.labels:
            return self._labelme(photo)
        if not photo.masks:
            raise ValueError(
                f"{photo.path}: has no mask; draw {MASKS}/{photo.path.stem}.png (or its LabelMe file), or take it out."
            )
        found = defaultdict(list)
        for rest, path in photo.masks:
            name = self._name_of_file(rest, path)
            areas = self._map(path, photo) if name is None else {name: self.thing(path, photo)}
            for called, area in areas.items():
                found[called].append(area)
        return {name: _united(areas) for name, areas in found.items()}

    def thing(self, path: Path, photo: Photo) -> Area:
        """A mask of one thing: what is not 0, in whatever number."""
        masks = class_masks(_numbers(path, photo))
        masks.pop(BACKGROUND, None)
        ignore = masks.pop(self.ignore_value, None)
        if ignore and set(masks) - {THING}:
            raise ValueError(
                f"{path}: holds {len(masks) + 1} numbers besides 0, among them {self.ignore_value}, which is not "
                "counted. If it is one thing with soft edges, save it without them or set ignore_value to 0; if it "
                "is several classes, name them in classes.txt."
            )
        if masks:
            self._otherwise = self._otherwise or path
            return Area(unite(list(masks.values())), ignore)
        if ignore:
            self._only_ignored = self._only_ignored or path
        return Area(ignore, None)

    def of_class(self, path: Path, photo: Photo, label: str, where: str) -> Area:
        """One class of a label map; all of a mask whose numbers nobody names."""
        if not self.names:
            return self.thing(path, photo)
        return pick(self._map(path, photo), label, f"{where}: {path.name}", "leave class empty if all of it is meant")

    def check_agreement(self) -> None:
        """Refuse masks of which it is unclear whether `ignore_value` is the thing or what is not counted."""
        if self._only_ignored and self._otherwise:
            raise ValueError(
                f"{self._only_ignored}: marks with {self.ignore_value}, but {self._otherwise} with another number, "
                f"where {self.ignore_value} is not counted. Set ignore_value to 0 if whatever is not 0 is the "
                "thing; otherwise mark with 1."
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
            raise ValueError(f"{path}: holds the number {unknown[0]}, which is no class; there are: {known}.")
        found = defaultdict(list)
        for number, mask in masks.items():
            found[self.names[number]].append(mask)
        return {name: Area(unite(same), ignore) for name, same in found.items()}

    def _labelme(self, photo: Photo) -> dict[str | None, Area]:
        masks = read_labelme(photo.labels, photo.path)
        ignore = masks.pop(IGNORED, None)
        found = defaultdict(list)
        for label, mask in masks.items():
            found[self._known(label, photo.labels)].append(Area(mask if coco_mask.area(mask) else None, ignore))
        return {name: _united(areas) for name, areas in found.items()}

    def _name_of_file(self, rest: str | None, path: Path) -> str | None:
        """The class that a mask's file name ends with; none where it has only the picture's name."""
        if rest is None or (clean(rest) == NAMELESS and NAMELESS not in self.names.values()):
            return None
        if rest.isdecimal():
            if int(rest) not in self.names:
                raise ValueError(
                    f"{path}: {rest} is no name; rename it, as in {path.stem}_cat, or say it in classes.txt."
                )
            return self.names[int(rest)]
        return self._known(clean(rest), path)

    def _known(self, name: str, path: Path) -> str:
        """The name as the classes write it, where they are listed; "cat 2" is a second cat then."""
        known = {one.casefold(): one for one in self.names.values()}
        numberless = name.rstrip(string.digits)
        for candidate in (name, numberless if numberless == name else numberless.rstrip(" -")):
            if candidate.casefold() in known:
                return known[candidate.casefold()]
        if known:
            raise ValueError(f"{path}: {show(name)} is no class; there are: {listed(known.values())}.")
        return name


def pick(areas: dict[str | None, Area], label: str, where: str, advice: str) -> Area:
    """The area that a question's class names."""
    shown = {name.casefold(): area for name, area in areas.items() if name and area.mask}
    if clean(label).casefold() in shown:
        return shown[clean(label).casefold()]
    names = listed(name for name, area in areas.items() if name and area.mask) or "nothing that has a name"
    raise ValueError(f"{where}: no {show(label)} is marked in it, but {names}; {advice}.")


def _numbers(path: Path, photo: Photo) -> np.ndarray:
    """A mask's numbers (H, W) on the upright picture."""
    if path.suffix.lower() in LOSSY:
        raise ValueError(f"{path}: JPEG does not keep the numbers of a mask; save it as PNG where it was drawn.")
    try:
        numbers = read_label_map(path)
    except ValueError as error:
        raise ValueError(f"{error} A mask is a PNG file in greyscale or with a palette.") from error
    method = turn_of(photo.path, numbers.shape, str(path))
    return numbers if method is None else np.asarray(Image.fromarray(numbers).transpose(method))


def _united(areas: list[Area]) -> Area:
    masks, ignored = ([mask for mask in masks if mask] for masks in zip(*areas, strict=True))
    return Area(unite(masks) if masks else None, unite(ignored) if ignored else None)
