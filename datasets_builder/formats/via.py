"""Read the JSON files of VGG Image Annotator (VIA), versions 1 and 2: projects and exported annotations.

    via_project.json       of any name; also train.json or train/via_region_data.json
    images/1.jpg           or next to the JSON file, or anywhere below the folder

The class of a region is the value of one of its attributes.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma_lisa.safety.short_text import listed, name_of, show

from .annotated import AnnotatedImage, AnnotationFormat, Notes, failing, loaded
from .json_files import read_json
from .photo_names import PhotoNames
from .tool_folders import MOST_FILES, by_split, find_files, photo_folders, split_in
from .via_regions import is_empty, objects_of

TITLE = "VGG Image Annotator JSON"
ADVICE = "export the annotations as JSON from VIA 2"
CLASS_ATTRIBUTES = ("name", "class", "label", "category", "type", "object")
SEVERAL_ATTRIBUTES = "files whose regions have several attributes, of which one is read as the class"
OPTIONS = ("dropdown", "radio", "checkbox")  # types of attributes whose values are ids of options
_FILE = re.compile(r'"regions"\s*:\s*[\[{]')


@dataclass(slots=True)
class _File:
    """The content of a JSON file."""

    path: Path
    records: dict[str, dict]  # of the photos
    attributes: dict[str, dict]  # definitions of the region attributes by name; {} in exported annotations


def recognizes(folder: Path) -> bool:
    """Return whether a folder contains JSON files of VIA, also projects of VIA 3."""
    return bool(_files(folder, MOST_FILES))


def read(folder: Path, notes: Notes) -> dict[str, list[AnnotatedImage]]:
    """Return the photos of all JSON files of VIA in a folder, by split.

    Raises:
        ValueError: a file is damaged, is of VIA 3, or no attribute is known to be the class.
    """
    images, splits = [], []
    for path in _files(folder):
        file = _opened(path)
        attribute = _class_attribute(file, notes)
        descriptions = _descriptions(file.attributes.get(attribute))
        photos = PhotoNames(photo_folders(path, folder), notes)
        for place, record in enumerate(file.records.values(), start=1):
            images.append(_annotated(file, place, record, attribute, descriptions, photos, notes))
            splits.append(split_in(path.relative_to(folder)))
    return by_split(images, splits)


def _files(folder: Path, most: int | None = None) -> list[Path]:
    return find_files(folder, ".json", _is_via, most)


def _is_via(start: str) -> bool:
    if not start.startswith("{"):
        return False
    is_project = '"_via_img_metadata"' in start or '"_via_settings"' in start or '"vid_list"' in start
    return is_project or (_FILE.search(start) is not None and '"filename"' in start)


def _opened(path: Path) -> _File:
    """Return the content of a file.

    Raises:
        ValueError: it is damaged, is of VIA 3, or has no photo.
    """
    content = read_json(path, ADVICE)
    if isinstance(content, dict) and isinstance(content.get("project"), dict) and "_via_img_metadata" not in content:
        raise ValueError(f"{path} is a project of VIA 3, which is not supported; draw the regions in VIA 2.")
    attributes = {}
    if isinstance(content, dict) and "_via_img_metadata" in content:
        definitions = content.get("_via_attributes")
        regions = definitions.get("region") if isinstance(definitions, dict) else None
        if isinstance(regions, dict):
            attributes = {name: one for name, one in regions.items() if isinstance(one, dict)}
        content = content["_via_img_metadata"]
    is_valid = isinstance(content, dict) and all(isinstance(record, dict) for record in content.values())
    if not is_valid or "_via_settings" in content:
        raise ValueError(f"{path}: the photos must be objects with filename and regions; {ADVICE}.")
    if not content:
        raise ValueError(f"{path} contains no photo; {ADVICE}.")
    return _File(path, content, attributes)


def _regions(record: dict) -> list:
    """Return the regions of a photo. VIA 1 stores them by number.

    Raises:
        ValueError: they are no list.
    """
    regions = record.get("regions", [])
    regions = list(regions.values()) if isinstance(regions, dict) else regions
    if not isinstance(regions, list):
        raise ValueError(f"its regions must be a list, got {show(regions, 60)}")
    return regions


def _values(file: _File) -> Iterator[dict[str, Any]]:
    """Yield the attributes of each region that has some."""
    for record in file.records.values():
        try:
            regions = _regions(record)
        except ValueError:
            continue  # raised again by `objects`
        for region in regions:
            attributes = region.get("region_attributes") if isinstance(region, dict) else None
            if isinstance(attributes, dict):
                yield attributes


def _class_attribute(file: _File, notes: Notes) -> str:
    """Return the name of the attribute that is the class: the only one, or the one with a name in CLASS_ATTRIBUTES.

    Raises:
        ValueError: there is none, or there are several.
    """
    counts = Counter(name for values in _values(file) for name, value in values.items() if not is_empty(value))
    if not counts:
        if any(True for _ in _values(file)):
            raise ValueError(
                f"{file.path}: no region has an attribute with its class; add the attribute name in VIA and save it."
            )
        return CLASS_ATTRIBUTES[0]  # no photo has regions
    if len(counts) == 1:
        return next(iter(counts))
    named = [name for name in counts if name.strip().lower() in CLASS_ATTRIBUTES]
    if len(named) != 1:
        raise ValueError(
            f"{file.path}: the regions have the attributes {listed(counts)}; rename the one with the class to class, "
            f"and no other to one of {', '.join(CLASS_ATTRIBUTES)}."
        )
    others = listed(name for name in counts if name != named[0])
    notes.add(SEVERAL_ATTRIBUTES, f"{file.path}: {show(named[0])} is the class, not {others}")
    return named[0]


def _descriptions(definition: dict | None) -> dict[str, str]:
    """Return the descriptions of an attribute's options by id, without empty ones."""
    options = definition.get("options") if definition and definition.get("type") in OPTIONS else None
    if not isinstance(options, dict):
        return {}
    return {number: text.strip() for number, text in options.items() if isinstance(text, str) and text.strip()}


def _annotated(
    file: _File,
    place: int,
    record: dict,
    attribute: str,
    descriptions: dict[str, str],
    photos: PhotoNames,
    notes: Notes,
) -> AnnotatedImage:
    """Return a photo. Errors of its record are raised by its `objects`."""
    name = record.get("filename")
    where = f"{file.path}: photo {place} ({name_of(name)})"
    path, error = photos.find_or_error(name, where)
    fields = record.get("file_attributes")
    image = AnnotatedImage(path, where, str(name), failing(error), fields=fields if isinstance(fields, dict) else {})
    if error is None:
        try:
            regions = _regions(record)
        except ValueError as wrong:
            image.objects = failing(ValueError(f"{where}: {wrong}; {ADVICE}."))
            return image
        image.objects = loaded(objects_of(regions, attribute, descriptions, image, notes))
    return image


FORMAT = AnnotationFormat(TITLE, recognizes, read, free_names=True)
