"""Read the masks of a user's own folder: the area of each class in a photo, from any of the mask formats."""

import string
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from gemma_lisa.datasets_builder.formats.annotated import AS_SIZE, AnnotatedImage, AnnotatedObject, Notes, loaded
from gemma_lisa.datasets_builder.formats.coco_segmentation import unite
from gemma_lisa.datasets_builder.formats.frames import AUTO, frames_of
from gemma_lisa.datasets_builder.formats.label_maps import check_interpolation, class_masks
from gemma_lisa.datasets_builder.formats.mask_images import class_numbers, object_levels, read_mask_image
from gemma_lisa.datasets_builder.formats.soft_masks import BACKGROUND, FEW_NUMBERS, LOW, object_pixels
from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.safety.short_text import listed, name_of, show

from .folder_classes import clean, is_background
from .folder_files import MASKS, Photo
from .folder_names import check_versions

FULL = 65_535  # white in 16 bits
MOSTLY = 0.9  # share of the picture or of its border
FILLS_BORDER = "masks that fill the border of the picture (if the object is black, invert them)"
NAMED_BACKGROUND = "masks with a class whose name means background; it is not asked for"
UNUSED_TEXT = "photos whose masks have class names, which are asked for instead of the option text"


class Area(NamedTuple):
    """The mask of a class in a photo, or None if it is not there; and the ignore region, or None."""

    mask: dict | None
    ignore: dict | None


class MaskReader:
    """Read masks with named class numbers, and remember the numbers used in masks of a single object.

    Args:
        names: class names by number; {} if there are none. If they include 0, it is a class, and not the background.
        ignore_value: number of ignored pixels; 0 for none.
        text: question of masks without a class name, or None.
        notes: get a case for everything that is interpreted.
        exif: frame of masks of photos with an EXIF rotation, as in `frames.frames_of`.
    """

    def __init__(
        self,
        names: dict[int, str],
        ignore_value: int,
        text: str | None = None,
        notes: Notes | None = None,
        exif: str = AUTO,
    ):
        self.names, self.ignore_value, self.text = names, ignore_value, text
        self.notes = Notes() if notes is None else notes
        self.exif = exif
        self._only_ignored: Path | None = None  # the first mask whose object has this number
        self._otherwise: Path | None = None  # and the first whose object has another number

    def areas(self, photo: Photo) -> dict[str | None, Area]:
        """Return the areas marked in a photo by class name; the key is None for a mask without a name.

        Raises:
            ValueError: the photo has no mask, or a mask has another size or unknown classes or cannot be read.
        """
        if not photo.masks:
            raise ValueError(
                f"{photo.path}: the photo has no mask; add {MASKS}/{photo.stem}.png or its LabelMe file, or "
                "remove the photo."
            )
        found = self._of_files(photo)
        if self.text and any(found):
            self.notes.add(UNUSED_TEXT, f"{listed(filter(None, found))} in {photo.path}", photo.path)
        return found

    def _of_files(self, photo: Photo) -> dict[str | None, Area]:
        check_versions(photo)
        found = defaultdict(list)
        for name, path in photo.masks:
            if name is not None:
                name = self.class_of(name, path)
            areas = self._map(path, photo) if name is None else {name: self.thing(path, photo)}
            for called, area in areas.items():
                found[called].append(area)
        return {name: _united(areas) for name, areas in found.items()}

    def thing(self, path: Path, photo: Photo) -> Area:
        """Return the area of a mask of one object: its look decides which pixels are the object."""
        note = self._note(path, photo)
        mask = read_mask_image(path)
        levels = object_levels(mask, note)
        values = self._aligned(levels.values, path, photo)
        found = object_pixels(values, self.ignore_value, mask.is_lossy, path, note)
        if found.number is not None and not levels.by_look and found.number != FULL:
            if found.number == self.ignore_value:
                self._only_ignored = self._only_ignored or path
            else:
                self._otherwise = self._otherwise or path
        if not found.pixels.any():
            if mask.is_deep:
                raise ValueError(
                    f"{path}: has 16 bits per color channel and no visible object; save it as a grayscale PNG."
                )
            return Area(None, None if found.ignore is None else encode_mask(found.ignore))
        if found.pixels.all():
            raise ValueError(
                f"{path}: no pixel is 0 (the background), so the whole picture would be the object; save the "
                "background as 0, or remove the mask."
            )
        if _fills_border(found.pixels):
            note(FILLS_BORDER)
        return Area(encode_mask(found.pixels), None if found.ignore is None else encode_mask(found.ignore))

    def _note(self, path: Path, photo: Photo) -> Callable[[str], None]:
        return lambda kind: self.notes.add(kind, str(path), photo.path)

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
        note = self._note(path, photo)
        numbers = class_numbers(read_mask_image(path), note)
        masks = class_masks(self._aligned(numbers, path, photo))
        if BACKGROUND not in self.names:
            masks.pop(BACKGROUND, None)
        unknown = sorted(set(masks) - set(self.names) - {self.ignore_value})
        only = next(iter(self.names.values())) if len(self.names) == 1 else None
        is_soft = len(unknown) > FEW_NUMBERS and unknown[-1] >= LOW
        if only and (is_soft or set(masks) == {self.ignore_value} - set(self.names)):
            return {only: self.thing(path, photo)}  # one object in black and white, also with soft edges
        if only and masks:
            self._otherwise = self._otherwise or path
        ignore = None if self.ignore_value in self.names else masks.pop(self.ignore_value, None)
        if unknown:
            known = listed(f"{number} {name_of(name)}" for number, name in sorted(self.names.items()))
            raise ValueError(
                f"{path}: contains the number {unknown[0]}, which is not a class; the classes are: {known}."
            )
        check_interpolation(numbers, path, note)
        found = defaultdict(list)
        for number, mask in masks.items():
            if is_background(self.names[number]):
                note(NAMED_BACKGROUND)
            else:
                found[self.names[number]].append(mask)
        return {name: Area(unite(same), ignore) for name, same in found.items()}

    def _aligned(self, numbers: np.ndarray, path: Path, photo: Photo) -> np.ndarray:
        """Return the numbers (H, W) of a mask, aligned with the upright photo."""
        where = str(path)
        objects = loaded([AnnotatedObject("", where, {"size": list(numbers.shape)})])
        image = AnnotatedImage(photo.path, where, where, objects, numbers.shape, frame=AS_SIZE)
        [frame] = frames_of([image], self.exif, where, self.notes)
        if isinstance(frame, ValueError):
            raise frame
        return numbers if frame.turn is None else np.asarray(Image.fromarray(numbers).transpose(frame.turn))

    def class_of(self, name: str, path: Path) -> str:
        """Return the name as it is in the list of classes, if there is one. "cat 2" is then a second cat."""
        if self.names and name.isdecimal():
            raise ValueError(
                f"{path}: {name} is not the number or name of a class; rename the file, or list the class."
            )
        known = {one.casefold(): one for one in self.names.values()}
        numberless = name.rstrip(string.digits)
        for candidate in (name, numberless if numberless == name else numberless.rstrip(" -")):
            if candidate.casefold() in known:
                return known[candidate.casefold()]
        if known:
            raise ValueError(f"{path}: {show(name)} is not a class; the classes are: {listed(known.values())}.")
        return name


def pick(areas: dict[str | None, Area], label: str, where: str, advice: str) -> Area:
    """Return the area of the class that a question names."""
    shown = {name.casefold(): area for name, area in areas.items() if name and area.mask}
    if clean(label).casefold() in shown:
        return shown[clean(label).casefold()]
    names = listed(name for name, area in areas.items() if name and area.mask) or "no named class"
    raise ValueError(f"{where}: {show(label)} is not marked in it, only {names}; {advice}.")


def _fills_border(pixels: np.ndarray) -> bool:
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return bool(border.mean() >= MOSTLY or pixels.mean() >= MOSTLY)


def _united(areas: list[Area]) -> Area:
    masks, ignored = ([mask for mask in masks if mask] for masks in zip(*areas, strict=True))
    return Area(unite(masks) if masks else None, unite(ignored) if ignored else None)
