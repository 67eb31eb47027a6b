"""Convert the records of COCO instances JSON to annotated images."""

import functools
from pathlib import Path
from typing import Any

from gemma_lisa.safety.short_text import name_of

from .annotated import PERCENT, SHOWN, AnnotatedImage, AnnotatedObject, AnnotationFormat, Notes, ReportedError, failing
from .coco_files import CocoContent, find_annotations, has_coco, photo_finder, read_coco
from .coco_photos import PhotoFinder
from .coco_records import BROKEN
from .coco_scale import check_scale

REPORTED = ReportedError("bad record")
LABEL_STUDIO = "Label Studio"  # info.contributor of its exports


def annotated_images(file: Path, content: CocoContent, finder: PhotoFinder, notes: Notes) -> list[AnnotatedImage]:
    """Return the images of a JSON file. Their objects are made when they are read: COCO has 860,000.

    Args:
        file: names the records in errors.
        content: from `coco_files.read_coco`.
        finder: from `coco_files.photo_finder`.
        notes: counts what is interpreted. Records that it already contains get the path of their photo.

    Raises:
        ValueError: the coordinates are not in pixels.
    """
    found = []
    frame = PERCENT if content.contributor == LABEL_STUDIO else ""
    for place, image in enumerate(content.images):
        where = f"{file}: image {name_of(image['id'])} ({name_of(image['file_name'])})"
        size = None if image["height"] is None else (image["height"], image["width"])
        objects = functools.partial(_objects, content.annotations.get(image["id"], []), content.names, where)
        try:
            path = finder.find(image["file_name"], where)
        except ValueError as error:
            path, objects = file / str(place), failing(error)  # a path that does not exist
        found.append(AnnotatedImage(path, where, image["file_name"], objects, size, frame=frame, fields=image))
    check_scale(file, found, content.annotations, notes)
    _add_photos(notes, found)
    return found


def _add_photos(notes: Notes, images: list[AnnotatedImage]) -> None:
    """Replace the name of the photo by its path in the cases of records that were read before the photo was found."""
    path_of = {str(Path(image.name)): image.path for image in images}
    for cases in notes.cases.values():
        for at, case in enumerate(cases[:SHOWN]):
            if str(case.photo) in path_of:
                cases[at] = case._replace(photo=path_of[str(case.photo)])


def _objects(annotations: list[dict], names: dict[Any, str], where: str) -> list[AnnotatedObject]:
    return [
        AnnotatedObject(
            names[annotation["category_id"]],
            f"{where}: annotation {name_of(annotation.get('id', place))}",
            annotation.get("segmentation"),
            box=annotation.get("bbox"),
            area=annotation.get("area"),
            crowd=bool(annotation.get("iscrowd")),
            error=REPORTED if BROKEN in annotation else None,
            fields=annotation,
        )
        for place, annotation in enumerate(annotations)
    ]


def _read(root: Path, notes: Notes) -> dict[str, list[AnnotatedImage]]:
    splits = {}
    for split, file in find_annotations(root, None, notes).items():
        errors = []
        content = read_coco(file, errors.append, notes)
        finder = photo_finder(file, root, None, (image["file_name"] for image in content.images), notes)
        splits[split] = annotated_images(file, content, finder, notes)
        # Errors of records become those of photos, which max_bad can skip
        splits[split] += [
            AnnotatedImage(file / f"error {at}", str(error), "", failing(error)) for at, error in enumerate(errors)
        ]
    return splits


FORMAT = AnnotationFormat("COCO instances JSON", has_coco, _read)
