"""Photos whose objects come from the file of a labelling tool: which they are, and the area of each class."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from gemma_lisa.datasets_builder.formats.annotated import IGNORED, AnnotatedImage, Notes
from gemma_lisa.datasets_builder.formats.coco_segmentation import unite
from gemma_lisa.datasets_builder.formats.folder_listing import composed
from gemma_lisa.datasets_builder.formats.frames import frames_of
from gemma_lisa.datasets_builder.formats.labelme import annotated_image
from gemma_lisa.datasets_builder.formats.object_masks import ObjectMask, object_masks

from .folder_classes import clean
from .folder_files import Photo
from .folder_masks import Area
from .recognition import rename

SEPARATE, UNITE = REPEATED = ("separate", "unite")  # option repeated: what becomes of a photo that is listed twice
LISTED_TWICE = (
    "photos listed more than once, each with its own objects; to unite them, set the option repeated to unite"
)
IN_TWO_SPLITS = "photos that are also in another split, so its scores are too good; remove them from one of the two"
UNITED = "photos listed more than once, whose objects were united"


def photos_of(images: list[AnnotatedImage], root: Path, repeated: str, notes: Notes) -> dict[str, Photo]:
    """Return the photos of a split by key: the path relative to the data folder, without the suffix.

    Args:
        images: of the split.
        root: the data folder.
        repeated: separate: a photo that is listed twice is two photos; unite: it is one with all objects.
        notes: receives these photos.
    """
    photos = {}
    for same in group_repeated(images, repeated, notes):
        path = same[0].path
        key = composed(os.path.relpath(path.with_suffix(""), root))
        if key in photos and photos[key].path != path:  # 1.jpg and 1.png
            key = composed(os.path.relpath(path, root))
        one, number = key, 1
        while one in photos:
            number += 1
            one = f"{key}#{number}"
        photos[one] = Photo(path, root, key=one, annotated=same)
    return photos


def group_repeated(images: list[AnnotatedImage], repeated: str, notes: Notes) -> list[list[AnnotatedImage]]:
    """Return groups of images that become one row each. Several annotators, or a merge of files, list a photo twice.

    Args:
        images: of a split.
        repeated: SEPARATE: each image is its own group; UNITE: all images of a photo are one.
        notes: receives these photos.
    """
    of_path = defaultdict(list)
    for image in images:
        of_path[image.path].append(image)
    groups = []
    for path, same in of_path.items():
        if len(same) > 1:
            notes.add(UNITED if repeated == UNITE else LISTED_TWICE, f"{same[0].where} and {same[1].where}", path)
        groups += [same] if repeated == UNITE else [[image] for image in same]
    return groups


def note_shared(split: str, images: Iterable[AnnotatedImage], split_of: dict[Path, str], notes: Notes) -> None:
    """Count the photos of a split that are also in a split before it. split_of: by path, of the splits before it."""
    for image in images:
        first = split_of.setdefault(image.path, split)
        if first != split:
            notes.add(IN_TWO_SPLITS, f"{image.where} is in {first} and {split}", image.path)


def read_labels(photos: list[Photo], has_classes: bool, notes: Notes) -> None:
    """Read the LabelMe files of photos. Without a list of classes, unite the spellings of their names."""
    for photo in photos:
        if photo.labels:
            photo.annotated = [annotated_image(photo.labels, photo.path, notes)]
    if not has_classes:
        rename([image for photo in photos for image in photo.annotated], notes)


def find_frames(photos: list[Photo], exif: str, where: str, notes: Notes) -> None:
    """Set the frames of the annotations of all photos that have some; errors as in `frames.frames_of`."""
    images = [image for photo in photos for image in photo.annotated]
    frames = iter(frames_of(images, exif, where, notes))
    for photo in photos:
        photo.frames = [next(frames) for _ in photo.annotated]


def annotated_areas(
    photo: Photo,
    crowds: str,
    class_of: Callable[[str, str], str],
    notes: Notes,
    tolerate: Callable[[ValueError], None],
) -> dict[str | None, Area]:
    """Return the areas marked in a photo by class name.

    Args:
        photo: with annotations and their frames.
        crowds: as in `object_masks.object_masks`.
        class_of: returns the class of a name; the second argument is the place of the object for errors.
        notes: receives what was interpreted or skipped.
        tolerate: called with the error of each bad object.

    Raises:
        ValueError: the record of the photo is bad, or a class is unknown; errors raised by `tolerate`.
    """
    objects: list[ObjectMask] = []
    for image, frame in zip(photo.annotated, photo.frames, strict=True):
        if isinstance(frame, ValueError):
            raise frame
        objects += object_masks(image, frame, crowds, notes, tolerate)
    masks, ignored, bad = defaultdict(list), defaultdict(list), set()
    for one in objects:
        name = one.annotated.name
        if name and name != IGNORED:
            name = clean(class_of(name, one.annotated.where))
        if one.is_bad:
            bad.add(name)
            continue
        masks[name] += [one.mask] if one.mask else []
        ignored[name] += [one.ignore] if one.ignore else []
    everywhere = masks.pop(IGNORED, []) + ignored.pop(IGNORED, [])
    areas = {}
    for name, found in masks.items():
        if name in bad:
            notes.add("skipped classes with an error in one of their objects", f"{name} in {photo.path}", photo.path)
        elif found:
            unclear = ignored[name] + everywhere
            areas[name] = Area(unite(found), unite(unclear) if unclear else None)
    return areas
