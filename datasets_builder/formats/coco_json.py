"""Convert the records of COCO instances JSON to annotated images."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gemma_lisa.safety.short_text import name_of

from .annotated import PERCENT, AnnotatedImage, AnnotatedObject, AnnotationFormat, Notes, failing
from .coco_files import find_annotations, find_folder, path_inside, read_coco

LABEL_STUDIO = "Label Studio"  # info.contributor of its exports


def annotated_images(
    file: Path,
    images: list[dict],
    annotations: dict[Any, list[dict]],
    names: dict[Any, str],
    path_of: Callable[[str, str], Path],
    contributor: str = "",
) -> list[AnnotatedImage]:
    """Return the images of a JSON file. Objects are made when they are read: COCO has 860,000.

    Args:
        file: names the records in errors.
        images, annotations, names: from `coco_files.read_coco`.
        path_of: returns the path of the photo with a file name; the second argument names the record in errors.
        contributor: `info.contributor` of the file.
    """
    found = []
    for image in images:
        where = f"{file}: image {name_of(image['id'])} ({name_of(image['file_name'])})"
        size = None if image["height"] is None else (image["height"], image["width"])
        objects = functools.partial(_objects, annotations.get(image["id"], []), names, where)
        frame = PERCENT if contributor == LABEL_STUDIO else ""
        try:
            path = path_of(image["file_name"], where)
        except ValueError as error:
            path, objects = Path(image["file_name"]), failing(error)
        found.append(AnnotatedImage(path, where, image["file_name"], objects, size, frame=frame, fields=image))
    return found


def _objects(annotations: list[dict], names: dict[Any, str], where: str) -> list[AnnotatedObject]:
    return [
        AnnotatedObject(
            names[annotation["category_id"]],
            f"{where}: annotation {name_of(annotation.get('id', place))}",
            annotation.get("segmentation"),
            box=annotation.get("bbox"),
            area=annotation.get("area"),
            crowd=bool(annotation.get("iscrowd")),
            error=annotation.get("error"),
            fields=annotation,
        )
        for place, annotation in enumerate(annotations)
    ]


def _recognizes(root: Path) -> bool:
    try:
        return bool(find_annotations(root, None))
    except ValueError:
        return False


def _read(root: Path, notes: Notes) -> dict[str, list[AnnotatedImage]]:
    splits = {}
    for split, file in find_annotations(root, None).items():
        errors = []
        images, annotations, names = read_coco(file, errors.append)
        folder = find_folder(file, root, (image["file_name"] for image in images)) if images else root

        def path_of(name: str, where: str, folder: Path = folder) -> Path:
            return path_inside(folder, name, (root, folder), where)

        splits[split] = annotated_images(file, images, annotations, names, path_of)
        # Errors of records become those of photos, which max_bad can skip
        splits[split] += [
            AnnotatedImage(file / str(at), str(error), "", failing(error)) for at, error in enumerate(errors)
        ]
    return splits


FORMAT = AnnotationFormat("COCO instances JSON", _recognizes, _read)
