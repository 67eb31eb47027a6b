"""Check the records of a COCO JSON file, and join them by their ids."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gemma_lisa.datasets_builder.class_names import clean, unite_names
from gemma_lisa.safety.short_text import listed, name_of, show

from .annotated import Notes
from .json_files import refuse

LONGEST_SIDE = 2**31 - 1  # pixels: rows store sizes as int32
LONGEST_NAME = 1_000  # characters of a category: the time of splitting it into words is quadratic
BACKGROUND = "_background_"  # of LabelMe; its underscores are kept so that it is recognized
BROKEN = "broken"  # field of annotations and images whose class, or some class, is incomplete because of an error
_FLAGS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "": 0}
_WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?")  # an integer as text

SAME_ID = "ids that are text in one place and numbers in another"
NO_SIZE = "photos without width and height in the JSON, so the size of the photo is used"
OTHER_NAME = "photos without file_name, which are found by coco_url or path"
SAME_RECORD = "records that are listed twice with the same content, so one is used"
NO_ANNOTATION_ID = "annotations without an id, which is not needed"
SAME_ANNOTATION_ID = "annotations with the id of another annotation, which is not needed"
KEEP_APART = "rename a category to keep them apart"


def as_id(value: Any) -> int | str | None:
    """Return an id of a record: 1 for 1.0. None if it is not an id."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def number_in(value: Any) -> int | None:
    """Return the integer that an id stands for: 1 for 1, 1.0, "1" and "01". None for other ids."""
    if isinstance(value, str):
        return int(value.strip().split(".")[0]) if _WHOLE.fullmatch(value.strip()) else None
    value = as_id(value)
    return value if isinstance(value, int) else None


class Ids:
    """Look up records by ids that can be text in one place and numbers in another.

    Args:
        records: by id.
        where: names the records in notes: "a.json: image".
        notes: counts the ids that differ; None to accept only equal ids.
    """

    def __init__(self, records: dict[Any, Any], where: str, notes: Notes | None):
        self._records, self._where, self._notes = records, where, notes
        self._numbers: dict[int, list] | None = None
        self._found: dict[Any, Any] = {}

    def find(self, value: Any) -> Any:
        """Return the id in the records that a value stands for, or None. Equal ids are preferred."""
        if as_id(value) is None:
            return None
        if value in self._records:
            return as_id(value)
        if self._notes is None:
            return None
        if value not in self._found:
            self._found[value] = self._by_number(value)
        return self._found[value]

    def _by_number(self, value: Any) -> Any:
        if self._numbers is None:
            self._numbers = defaultdict(list)
            for number in self._records:
                self._numbers[number_in(number)].append(number)
        number = number_in(value)
        same = self._numbers.get(number, []) if number is not None else []
        if len(same) != 1:
            return None
        self._notes.add(SAME_ID, f"{self._where} {show(same[0])} is also {show(value)}")
        return same[0]


def by_id(
    file: Path, kind: str, records: list, refused: Callable[[ValueError, Any], None], notes: Notes | None
) -> dict[Any, dict]:
    """Return the records by id.

    Args:
        file: for errors.
        kind: "image" or "category".
        records: of the file. Integers stored as float become integers.
        refused: called with the error of each bad record and its id or None.
        notes: counts equal records; None to refuse them.
    """
    found = {}
    for place, record in enumerate(records):
        number = as_id(record.get("id")) if isinstance(record, dict) else None
        if number is None:
            given = record.get("id") if isinstance(record, dict) else None
            got = "has no id" if given is None else f"has the id {show(given)}, which is not an integer or a string"
            refused(ValueError(f"{file}: the {kind} at index {place} of its list {got}; add it."), None)
            continue
        record["id"] = number
        if number not in found:
            found[number] = record
        elif notes is not None and found[number] == record:
            notes.add(SAME_RECORD, f"{file}: {kind} {name_of(number)}")
        else:
            error = f"{file}: {kind} {name_of(number)} exists twice; every id must be unique."
            refused(ValueError(error), number)
    return found


def checked_images(
    file: Path, records: list, tolerate: Callable[[ValueError], None], notes: Notes | None
) -> tuple[dict[Any, dict], set]:
    """Return the valid images by id, and the ids of the others. A size that is not stated becomes None.

    notes: None to refuse images without a size.
    """
    bad = set()

    def refused(error: ValueError, number: Any) -> None:
        tolerate(error)
        bad.add(number)

    images = by_id(file, "image", records, refused, notes)
    for number, image in images.items():
        if number in bad:
            continue
        if error := _wrong_name(file, image, notes) or _wrong_size(file, image, notes):
            refused(ValueError(f"{file}: image {name_of(number)} {error}."), number)
    return {number: image for number, image in images.items() if number not in bad}, bad


def _wrong_name(file: Path, image: dict, notes: Notes | None) -> str | None:
    """Return what is wrong with the file name of an image, or None."""
    name = image.get("file_name")
    if isinstance(name, str) and name.strip():
        return None
    if name is None:
        other = next((image[key] for key in ("coco_url", "path") if isinstance(image.get(key), str)), None)
        if other is None or notes is None:
            return "has no file_name; add it"
        notes.add(OTHER_NAME, f"{file}: image {name_of(image['id'])} is {name_of(other)}", Path(other))
        image["file_name"] = other
        return None
    return f"has the file_name {show(name)}, which is not the name of a file; correct it"


def _wrong_size(file: Path, image: dict, notes: Notes | None) -> str | None:
    """Return what is wrong with the size of an image, or None. Sizes of 0 count as not stated."""
    height, width = sides = image.get("height"), image.get("width")
    if type(height) is int and type(width) is int and 0 < height <= LONGEST_SIDE and 0 < width <= LONGEST_SIDE:
        return None
    numbers = [number_in(side) for side in sides]
    if all(side is not None and 0 < side <= LONGEST_SIDE for side in numbers):
        image["height"], image["width"] = numbers
        return None
    unknown = [side in (None, "") or number == 0 for side, number in zip(sides, numbers, strict=True)]
    others = [number for number, is_unknown in zip(numbers, unknown, strict=True) if not is_unknown]
    if any(unknown) and all(number is not None and number > 0 for number in others) and notes is not None:
        image["height"] = image["width"] = None
        notes.add(
            NO_SIZE, f"{file}: image {name_of(image['id'])} ({name_of(image['file_name'])})", Path(image["file_name"])
        )
        return None
    return f"has height {show(height)} and width {show(width)}; both must be numbers of pixels from 1 to {LONGEST_SIDE}"


def category_names(file: Path, records: list, notes: Notes | None) -> dict[Any, str]:
    """Return the names of the categories by id, with spaces for underscores.

    notes: counts names that differ only in letter case, which become one name; None to keep them.

    Raises:
        ValueError: a category has no id or no name, or an id is used twice.
    """
    categories = by_id(file, "category", records, lambda error, _: refuse(error), notes)
    given = {}
    for number, category in categories.items():
        name = category.get("name")
        text = str(name) if isinstance(name, str | int | float) else ""
        if len(text) > LONGEST_NAME:
            raise ValueError(
                f"{file}: the name of category {name_of(number)} must have at most {LONGEST_NAME:,} characters, got "
                f"{len(text):,}."
            )
        if not clean(text):
            raise ValueError(f"{file}: category {name_of(number)} has no name; add one.")
        given[number] = text
    names = {name: clean(name) for name in given.values()}
    if notes is not None:
        names = unite_names(given.values(), False, notes, KEEP_APART)
    return {number: name if name == BACKGROUND else names[name] for number, name in given.items()}


def join_annotations(
    file: Path,
    records: list,
    images: dict[Any, dict],
    bad: set,
    names: dict[Any, str],
    tolerate: Callable[[ValueError], None],
    notes: Notes | None,
) -> dict[Any, list[dict]]:
    """Return the annotations of each image by its id.

    A bad annotation never removes the others of its image. If its image and category are known, it stays in the list
    with the field BROKEN. If only its image is known, the image has this field.

    Args:
        file: for errors.
        records: annotations of the file.
        images: valid images by id.
        bad: ids of the other images, whose annotations are skipped without another error.
        names: names of the categories by id.
        tolerate: called with the error of each bad annotation.
        notes: counts what is interpreted; None to accept only equal ids.
    """
    of_image = defaultdict(list)
    image_ids, category_ids = Ids(images, f"{file}: image", notes), Ids(names, f"{file}: category", notes)
    unknown = Ids(dict.fromkeys(bad), f"{file}: image", Notes())
    _name_annotations(file, records, images, tolerate, notes)
    for place, annotation in enumerate(records):
        try:  # most annotations are valid
            image, crowd = annotation["image_id"], annotation.get("iscrowd")
            if image in images and annotation["category_id"] in names and (crowd is None or crowd == 0 or crowd == 1):
                of_image[image].append(annotation)
                continue
        except (AttributeError, KeyError, TypeError):
            pass
        if not isinstance(annotation, dict):
            tolerate(ValueError(f"{file}: the annotation at index {place} must be an object, got {show(annotation)}."))
            continue
        image, category = image_ids.find(annotation.get("image_id")), category_ids.find(annotation.get("category_id"))
        if image is None and unknown.find(annotation.get("image_id")) is not None:
            continue
        where = f"{file}: annotation {name_of(annotation['id'])}"
        if image is None:
            tolerate(ValueError(f"{where}{_unknown(annotation, 'image', images)}."))
        elif category is None:
            images[image][BROKEN] = True
            tolerate(ValueError(f"{where}{_unknown(annotation, 'category', names)}."))
        else:
            annotation["image_id"], annotation["category_id"] = image, category
            crowd = annotation.get("iscrowd")
            if isinstance(crowd, str) and crowd.strip().lower() in _FLAGS:
                annotation["iscrowd"] = _FLAGS[crowd.strip().lower()]
            elif crowd not in (None, 0, 1):
                annotation[BROKEN] = True
                if notes is None:
                    images[image][BROKEN] = True
                tolerate(ValueError(f"{where}: iscrowd is {show(crowd)}, not 0 or 1."))
            of_image[image].append(annotation)
    return of_image


def _name_annotations(
    file: Path, records: list, images: dict[Any, dict], tolerate: Callable[[ValueError], None], notes: Notes | None
) -> None:
    """Add an id to annotations without one, and count repeated ids. They only name annotations in errors.

    notes: None for published data sets: ids join parts to objects, so these are errors, and their images are BROKEN.
    """
    seen, first = {}, {}
    for place, annotation in enumerate(records):
        if not isinstance(annotation, dict):
            continue
        number = annotation.get("id")
        if number is None or isinstance(number, (list, dict)):
            annotation["id"] = number = f"at index {place}"
            kind, error = NO_ANNOTATION_ID, f"{file}: the annotation at index {place} of its list has no id."
        elif seen.setdefault(number, annotation) is annotation:
            continue
        else:
            kind, error = SAME_ANNOTATION_ID, f"{file}: annotation {name_of(number)} exists twice."
        if notes is not None:
            # one text for all, because a file can have a million of them
            notes.add(kind, first.setdefault(kind, f"{file}: annotation {name_of(number)}"))
        else:
            tolerate(ValueError(error))
            for image in (record.get("image_id") for record in (annotation, seen.get(number, annotation))):
                if as_id(image) is not None and image in images:
                    images[image][BROKEN] = True


def _unknown(annotation: dict, kind: str, known: Iterable[Any]) -> str:
    """Return that an annotation names no image or category, or an unknown one, as the end of a sentence."""
    named = annotation.get(f"{kind}_id")
    if named is None:
        return f" has no {kind}_id; add it"
    return f": there is no {kind} {show(named)}; the file has the ids {listed(known, 60) or 'of none'}"
