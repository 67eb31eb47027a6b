"""The common form of annotations from labelling tools: photos, their objects, and what the files state about them.

Each reader of a format (yolo.py, cvat_xml.py, ...) returns `AnnotatedImage`s. It copies what the file says and decides
nothing: object_masks.py draws the masks, turns them upright, cuts the holes and checks them, for all formats alike.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

AS_SIZE = "as size"  # one program wrote size and coordinates, so the size shows the frame; if it cannot: upright
IGNORED = "__ignore__"  # class of ignore regions, as LabelMe names them
SHOWN = 20  # cases of each kind whose photos can be shown: a photo can have no row
PERCENT = "percent"  # percent of the upright photo, times the stated size: what Label Studio exports as COCO


class ReportedError(ValueError):
    """The error of an object that was already reported."""


@dataclass(slots=True)
class AnnotatedObject:
    """One object of a photo, as its file describes it."""

    name: str  # class, as in the file
    where: str  # names the object in errors: "labels/1.txt line 2"
    # Polygons [[x, y, x, y, ...], ...], RLE {"size", "counts"}, or a list of both, as `segmentation_runs` takes them.
    # None or []: the object has no outline, only a box or nothing
    segmentation: Any
    holes: list = field(default_factory=list)  # the same, to be cut out
    box: tuple[float, float, float, float] | None = None  # (x, y, width, height) that the file states, or None
    area: float | None = None  # in pixels, that the file states, or None
    crowd: bool = False  # COCO's iscrowd
    error: ValueError | None = None  # of its record; the class of the object is then not asked for in this photo
    fields: dict[str, Any] = field(default_factory=dict)  # other fields, for the option text


@dataclass(slots=True)
class AnnotatedImage:
    """One photo with its objects."""

    path: Path  # of the photo; it can be missing
    where: str  # names the photo in errors: "annotations.json: image 3 (1.jpg)"
    name: str  # file name in the annotations
    # Returns the objects, in the order of the file, so that files with many masks are read one at a time. Raises a
    # ValueError if the record of the photo is bad
    objects: Callable[[], list[AnnotatedObject]]
    size: tuple[int, int] | None = None  # (height, width) in pixels that the file states, or None
    normalized: bool = False  # coordinates are fractions of the photo's width and height, from 0 to 1
    frame: str = ""  # AS_SIZE or PERCENT, if the program is known to write so
    fields: dict[str, Any] = field(default_factory=dict)  # other fields of the photo's record


class Case(NamedTuple):
    """One place that was interpreted or skipped."""

    where: str
    photo: Path | None


class Notes:
    """What was interpreted, united or skipped, by kind. Each kind becomes one remark with its count and first case."""

    def __init__(self) -> None:
        self.cases: dict[str, list[Case]] = defaultdict(list)

    def add(self, kind: str, where: str, photo: Path | None = None) -> None:
        """Count a case.

        Args:
            kind: a plural with a verb, such as "skipped objects with an empty mask".
            where: names the case.
            photo: that shows it, for the sheet of `inspect`.
        """
        self.cases[kind].append(Case(where, photo))


class AnnotationFormat(NamedTuple):
    """A format of a labelling tool."""

    title: str  # "YOLO segmentation labels"
    # Whether a folder contains this format. Looks at names and the first characters of few files; never raises
    # ValueError for files of other formats
    recognizes: Callable[[Path], bool]
    # Returns the photos of each split: {"train": [...]}. Raises ValueError if the whole data set cannot be read. An
    # error of one photo is raised by its `objects` instead
    read: Callable[[Path, Notes], dict[str, list[AnnotatedImage]]]
    free_names: bool = False  # users type the class names, so "Mug-1" and "mug 2" can be the same class


def failing(error: ValueError) -> Callable[[], list[AnnotatedObject]]:
    """Return a function for `AnnotatedImage.objects` that raises this error."""

    def fail() -> list[AnnotatedObject]:
        raise error

    return fail


def loaded(objects: Iterable[AnnotatedObject]) -> Callable[[], list[AnnotatedObject]]:
    """Return a function for `AnnotatedImage.objects` that returns these objects."""
    objects = list(objects)
    return lambda: objects
