"""Recognize the labelling tool whose export lies in a folder, and read its photos."""

import dataclasses
from pathlib import Path

from gemma_lisa.datasets_builder.class_names import unite_names
from gemma_lisa.datasets_builder.formats.annotated import (
    IGNORED,
    AnnotatedImage,
    AnnotationFormat,
    Notes,
    failing,
    loaded,
)
from gemma_lisa.datasets_builder.formats.coco_files import SPLIT_WORDS
from gemma_lisa.datasets_builder.formats.coco_json import FORMAT as COCO_JSON
from gemma_lisa.datasets_builder.formats.coco_panoptic import FORMAT as COCO_PANOPTIC
from gemma_lisa.datasets_builder.formats.cvat_xml import FORMAT as CVAT_XML
from gemma_lisa.datasets_builder.formats.datumaro_json import FORMAT as DATUMARO_JSON
from gemma_lisa.datasets_builder.formats.file_search import visible
from gemma_lisa.datasets_builder.formats.json_kinds import INSTANCES, NOT_JSON, advice_for, kind_of_file
from gemma_lisa.datasets_builder.formats.label_studio import FORMAT as LABEL_STUDIO
from gemma_lisa.datasets_builder.formats.labelme import FORMAT as LABELME
from gemma_lisa.datasets_builder.formats.supervisely import FORMAT as SUPERVISELY
from gemma_lisa.datasets_builder.formats.via import FORMAT as VIA
from gemma_lisa.datasets_builder.formats.voc import FORMAT as VOC
from gemma_lisa.datasets_builder.formats.yolo import FORMAT as YOLO
from gemma_lisa.safety.short_text import show

from .folder_files import IMAGES, MASKS, find_place

MAX_FILES = 20  # JSON files that are looked at to find out what they are
FORMATS: dict[str, AnnotationFormat] = {
    "coco": COCO_JSON,
    "coco_panoptic": COCO_PANOPTIC,
    "cvat": CVAT_XML,
    "datumaro": DATUMARO_JSON,
    "labelme": LABELME,
    "label_studio": LABEL_STUDIO,
    "supervisely": SUPERVISELY,
    "via": VIA,
    "voc": VOC,
    "yolo": YOLO,
}


def recognize(root: Path, name: str | None) -> tuple[str, AnnotationFormat] | None:
    """Return the name and the format of the annotations in a folder, or None if no format of a tool is recognized.

    Args:
        root: the data folder.
        name: key of FORMATS, or None to recognize it.

    Raises:
        ValueError: there is no such format, or the folder contains several.
    """
    if name is not None:
        if name not in FORMATS:
            raise ValueError(f"folder: format must be masks or one of {', '.join(FORMATS)}, got {show(name)}.")
        return name, FORMATS[name]
    found = [key for key, one in FORMATS.items() if one.recognizes(root)]
    if len(found) > 1:
        titles = " and ".join(FORMATS[key].title for key in found)
        raise ValueError(
            f"{root}: contains {titles}; choose one by the option format, such as --dataset_options "
            f'\'{{"format": "{found[0]}"}}\'.'
        )
    return (found[0], FORMATS[found[0]]) if found else None


def read_format(
    known: AnnotationFormat, root: Path, has_classes: bool, notes: Notes
) -> dict[str, list[AnnotatedImage]]:
    """Return the photos of each split, with one spelling of each class name if there is no list of classes.

    Raises:
        ValueError: the annotations cannot be read, or contain no photo.
    """
    splits = {split: images for split, images in known.read(root, notes).items() if images}
    if not splits:
        raise ValueError(f"{root}: the {known.title} name no photo; export them again.")
    if known.free_names and not has_classes:
        rename([image for images in splits.values() for image in images], notes)
    return splits


def rename(images: list[AnnotatedImage], notes: Notes) -> None:
    """Give all spellings of a class name that users typed the same name: "Mug-1", "mug 2"."""
    objects = {}
    for at, image in enumerate(images):
        try:
            objects[at] = image.objects()
        except ValueError as error:
            image.objects = failing(error)  # raised when its row is made
    one_name = unite_names((one.name for found in objects.values() for one in found), numbered=True, notes=notes)
    one_name[IGNORED] = IGNORED
    for at, found in objects.items():
        images[at].objects = loaded(dataclasses.replace(one, name=one_name[one.name]) for one in found)


def own_layout(root: Path) -> str | None:
    """Return the folder of masks in the layout of folder_files.py, or None if there is none."""
    for place in (root, *(root / name for name in SPLIT_WORDS)):
        if not find_place(place, IMAGES).is_dir():
            continue
        masks = find_place(place, MASKS)
        if masks.is_dir() and next(masks.iterdir(), None):
            return f"{masks.relative_to(root)}/"
    return None


def other_export(root: Path) -> str | None:
    """Return which export of a tool a folder contains and what to do with it, for errors; None if there is none."""
    for path in sorted(root.glob("*.json"))[:MAX_FILES] + sorted(root.glob("*/*.json"))[:MAX_FILES]:
        kind = kind_of_file(path)
        if kind not in (None, INSTANCES, NOT_JSON):
            return f"{path.relative_to(root)} is {kind}: {advice_for(kind)}"
    folders = visible(str(root))[1]
    if len(folders) == 1 and (found := [one for one in FORMATS.values() if one.recognizes(root / folders[0])]):
        return f"{folders[0]}/ contains {found[0].title}: set data_dir to this folder"
    return None
