"""Read the lines of YOLO label files: a class number, and a polygon or a box in fractions of the photo.

    0 0.12 0.25 0.44 0.25 0.44 0.83          class x y x y x y ...
    0 0.12 0.25 0.44 0.25 0.44 0.83 0.91     also with the confidence of a prediction at the end
    0 0.28 0.54 0.32 0.58                    class, center x, center y, width, height: only a box
    0 0.28 0.54 0.32 0.58 0.91               also with a confidence

A polygon with several parts or holes is one outline that returns on itself, so each line is one object.
"""

import math
from pathlib import Path
from typing import NamedTuple

from gemma_lisa.safety.short_text import count_of, listed, show

from .annotated import AnnotatedObject, Notes
from .folder_listing import read_text

BOX_NUMBERS = (4, 5)  # of a box, without and with a confidence
MIN_NUMBERS = 6  # of a polygon: x and y of three points
MAX_CLASS_CHARACTERS = 40

SCORED = "polygons with one number too many in every line of their file; the last number was read as a confidence"
POSED = "objects with keypoints; only their boxes were read"


class LabelLine(NamedTuple):
    """A line that is not empty."""

    number: int  # from 1
    class_text: str
    values: list[float]  # NaN for a text that is not a number


def read_lines(file: Path) -> list[LabelLine]:
    """Return the lines of a label file; errors as in `folder_listing.read_text`."""
    lines = []
    for number, text in enumerate(read_text(file).splitlines(), start=1):
        if words := text.split():
            lines.append(LabelLine(number, words[0], _numbers(words[1:])))
    return lines


def _numbers(words: list[str]) -> list[float]:
    try:
        return list(map(float, words))
    except ValueError:
        return [_number(word) for word in words]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def is_label(text: str) -> bool:
    """Return whether a line is one of a YOLO label file: a class number and at least four numbers."""
    words = text.split()
    if len(words) <= min(BOX_NUMBERS) or class_number(words[0]) is None:
        return False
    return not any(map(math.isnan, _numbers(words[1:])))


def has_polygon(lines: list[LabelLine], num_pose: int) -> bool:
    """Return whether a line is a polygon. num_pose: as in `read_objects`."""
    return any(len(line.values) >= MIN_NUMBERS and not _is_pose(line, num_pose) for line in lines)


def _is_pose(line: LabelLine, num_pose: int) -> bool:
    return num_pose > 0 and len(line.values) == min(BOX_NUMBERS) + num_pose


def class_number(text: str) -> int | None:
    """Return a class number. It can be written as a decimal, "1.0000e+00", as numpy.savetxt does."""
    if len(text) > MAX_CLASS_CHARACTERS:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() and number >= 0 else None


def read_objects(
    file: Path, name: str, names: dict[int, str], num_pose: int, notes: Notes, photo: Path
) -> list[AnnotatedObject]:
    """Return the objects of a label file, in fractions of the photo.

    Objects with bad coordinates are returned as they are: an odd number of coordinates, or NaN.

    Args:
        file: the label file.
        name: of the file in errors.
        names: class names by number.
        num_pose: numbers of keypoints that follow each box; 0 for none.
        notes: counts lines that were interpreted.
        photo: of the file, for the notes.

    Raises:
        ValueError: the file cannot be read. The object of a line without a class in `names` has an error.
    """
    lines = read_lines(file)
    outlines = [line for line in lines if len(line.values) >= MIN_NUMBERS and not _is_pose(line, num_pose)]
    scored = bool(outlines) and all(len(line.values) % 2 and len(line.values) > MIN_NUMBERS for line in outlines)
    objects = []
    for line in lines:
        where = f"{name} line {line.number}"
        try:
            annotated = AnnotatedObject(_class_name(line, where, names), where, None)
        except ValueError as error:
            objects.append(AnnotatedObject("", where, None, error=error))
            continue
        if _is_pose(line, num_pose):
            notes.add(POSED, where, photo)
            annotated.box = _box(line.values)
        elif len(line.values) in BOX_NUMBERS:
            annotated.box = _box(line.values)
        elif scored and len(line.values) >= MIN_NUMBERS:
            notes.add(SCORED, where, photo)
            annotated.segmentation = [line.values[:-1]]
        elif line.values:
            annotated.segmentation = [line.values]
        objects.append(annotated)
    return objects


def _box(values: list[float]) -> tuple[float, float, float, float]:
    x, y, width, height = values[:4]
    return x - width / 2, y - height / 2, width, height


def _class_name(line: LabelLine, where: str, names: dict[int, str]) -> str:
    number = class_number(line.class_text)
    if number is None:
        raise ValueError(
            f"{where}: {show(line.class_text)} is not a class number; a line must be `class x y x y ...`, with a class "
            "number from 0."
        )
    if number not in names:
        raise ValueError(
            f"{where}: there is no class {number}; the {count_of(len(names), 'class', 'classes')} "
            f"{'is' if len(names) == 1 else 'are'} "
            f"{listed(f'{at} ({names[at]})' for at in list(names)[:10])}. Correct the number or add the name."
        )
    return names[number]
