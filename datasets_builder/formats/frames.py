"""Decide in which frame annotations are drawn: on the upright photo, or on the pixels as stored before EXIF rotation.

Programs differ. Browsers show the upright photo; many converters write the stored size beside coordinates of the
upright photo. A wrong choice turns every mask of a phone's portrait photos by 90°.
"""

import math
from array import array
from collections.abc import Iterable
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from gemma_lisa.safety.short_text import count_of, show

from .annotated import AS_SIZE, PERCENT, AnnotatedImage, AnnotatedObject, Notes, loaded
from .coco_segmentation import BORDER, ORIENTATIONS, QUARTER_TURNS
from .jpeg_header import stored_size

AUTO, UPRIGHT, STORED = "auto", "upright", "stored"
OPTIONS = (AUTO, UPRIGHT, STORED)
FEW_PHOTOS = 1_000  # that need no progress bar
# Remarks: how the annotations of photos with an EXIF rotation were read
READ_AS = {
    UPRIGHT: "photos with an EXIF rotation whose annotations were read as drawn on the upright photo",
    STORED: "photos with an EXIF rotation whose annotations were read as drawn on the stored pixels",
    PERCENT: "photos with an EXIF rotation whose annotations were read as percent of the upright photo",
}


class Frame(NamedTuple):
    """The frame of an image's annotations."""

    size: tuple[int, int]  # (height, width) in pixels of the masks before `turn`
    scale: tuple[float, float] | None = None  # x and y of the annotations are multiplied by these
    turn: Image.Transpose | None = None  # makes the masks upright


class _Photo(NamedTuple):
    """A photo with an EXIF rotation, and what shows the frame of its annotations."""

    at: int
    stored: tuple[int, int]
    orientation: int
    fits: frozenset[str]  # frames that contain all coordinates
    equal: bool  # the stated size does not show the frame: it is missing, or both frames have it

    @property
    def upright(self) -> tuple[int, int]:
        return self.stored[::-1] if self.orientation in QUARTER_TURNS else self.stored


def frames_of(images: list[AnnotatedImage], exif: str, where: str, notes: Notes) -> list[Frame | ValueError]:
    """Return the frame of each image, or the error of an image whose photo is bad or has another size.

    Args:
        images: of one data set.
        exif: upright or stored: the frame of photos with an EXIF rotation whose size does not contradict it.
            auto: find it by the stated sizes and the coordinates.
        where: names the data set in errors.
        notes: receives the photos with a rotation, by frame.

    Raises:
        ValueError: exif is auto, and nothing shows the frame of some photos.
    """
    frames, rotated = [], []
    few = len(images) < FEW_PHOTOS
    for at, image in enumerate(tqdm(images, desc="Reading photos", unit="photo", disable=few or None)):
        try:
            stored, orientation = _stored_size(image)
            upright = stored[::-1] if orientation in QUARTER_TURNS else stored
            _check_size(image, stored, upright)
            if orientation in ORIENTATIONS and (objects := image.objects()):
                image.objects = loaded(objects)  # once: reading counts what it skips
                rotated.append(_photo(at, image, stored, orientation))
                frames.append(None)
            else:
                frames.append(_frame(image, UPRIGHT, stored, upright, None))
        except ValueError as error:
            frames.append(error)
    known = {photo.at: _known_frame(images[photo.at], photo, exif) for photo in rotated}
    _decide_by_others(known, rotated)
    if undecided := [photo.at for photo in rotated if known[photo.at] is None]:
        raise ValueError(
            f"{where}: {count_of(len(undecided), 'photo')} with an EXIF rotation, first: {images[undecided[0]].where}. "
            "The annotations have the size before the rotation, but can be drawn on the upright photo. Set the option "
            'exif to "upright" or "stored", and check the masks with inspect.'
        )
    for photo in rotated:
        image, frame = images[photo.at], known[photo.at]
        frames[photo.at] = _frame(image, frame, photo.stored, photo.upright, ORIENTATIONS[photo.orientation])
        notes.add(READ_AS[frame], image.where, image.path)
    return frames


def _stored_size(image: AnnotatedImage) -> tuple[tuple[int, int], int | None]:
    if not image.path.is_file():
        image.objects()  # its error says more
        raise ValueError(f"{image.where}: the image {image.path} does not exist; add it.")
    return stored_size(image.path, image.where)


def _check_size(image: AnnotatedImage, stored: tuple[int, int], upright: tuple[int, int]) -> None:
    if image.size not in (None, stored, upright):
        raise ValueError(
            f"{image.where}: its size is {show(image.size[1])} x {show(image.size[0])} pixels (width x height), but "
            f"the image {image.path} is {upright[1]} x {upright[0]}; export the annotations again for images of this "
            "size."
        )


def _photo(at: int, image: AnnotatedImage, stored: tuple[int, int], orientation: int) -> _Photo:
    upright = stored[::-1] if orientation in QUARTER_TURNS else stored
    fits = {UPRIGHT, STORED}
    if not image.normalized:
        extents = [_extent(one) for one in image.objects()]
        fits = {name for name, size in ((UPRIGHT, upright), (STORED, stored)) if _contains(size, extents)}
    return _Photo(at, stored, orientation, frozenset(fits), image.size is None or upright == stored)


def _extent(annotated: AnnotatedObject) -> tuple[float, float, float, float] | tuple[int, int]:
    """Return (left, top, right, bottom) of an object's polygons, or the size (height, width) of its RLE."""
    parts = annotated.segmentation if isinstance(annotated.segmentation, list) else [annotated.segmentation]
    left = top = math.inf
    right = bottom = -math.inf
    for part in parts:
        if isinstance(part, dict) and isinstance(part.get("size"), list) and len(part["size"]) == 2:
            return tuple(part["size"])
        if isinstance(part, list | array) and part and all(isinstance(number, int | float) for number in part):
            left, right = min(left, *part[::2]), max(right, *part[::2])
            top, bottom = min([top, *part[1::2]]), max([bottom, *part[1::2]])
    return left, top, right, bottom


def _contains(size: tuple[int, int], extents: Iterable[tuple]) -> bool:
    for extent in extents:
        if len(extent) == 2:
            if extent != size:
                return False
        elif max(extent[2] - size[1], extent[3] - size[0]) > BORDER:
            return False
    return True


def _known_frame(image: AnnotatedImage, photo: _Photo, exif: str) -> str | None:
    """Return the frame that the option or the image's own record shows, or None."""
    shown_by_size = None if photo.equal else UPRIGHT if image.size == photo.upright else STORED
    if shown_by_size == UPRIGHT and photo.fits != {STORED}:
        return UPRIGHT
    if exif != AUTO:
        return exif
    if image.frame == PERCENT and photo.fits != {UPRIGHT}:
        return UPRIGHT if photo.equal else PERCENT
    if len(photo.fits) == 1:
        return next(iter(photo.fits))
    if not photo.fits:  # the error of the coordinates is raised later
        return shown_by_size or UPRIGHT
    if image.frame == AS_SIZE:
        return shown_by_size or UPRIGHT
    return None


def _decide_by_others(known: dict[int, str | None], rotated: list[_Photo]) -> None:
    """Give photos without a known frame that of the other photos of the same kind, if all of these agree.

    If nothing shows the frame of photos whose size is the same in both, it is upright, as in browsers.
    """
    for equal in (False, True):
        group = [photo.at for photo in rotated if photo.equal == equal]
        found = {known[at] for at in group} | ({known[photo.at] for photo in rotated} if equal else set())
        found.discard(None)
        frame = found.pop() if len(found) == 1 else UPRIGHT if equal else None
        known.update({at: frame for at in group if known[at] is None})


def _frame(
    image: AnnotatedImage, frame: str, stored: tuple[int, int], upright: tuple[int, int], method: Image.Transpose | None
) -> Frame:
    size = stored if frame == STORED else upright
    scale = (upright[1] / stored[1], upright[0] / stored[0]) if frame == PERCENT else None
    if image.normalized:
        scale = (size[1], size[0])
    return Frame(size, scale, method if frame == STORED else None)
