"""Name the annotations in a folder that cannot be read, and what to export instead, for errors."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gemma_lisa.datasets_builder.formats.file_search import walk
from gemma_lisa.datasets_builder.formats.tool_folders import head_of

from .folder_places import MASKS, find_place, is_image
from .folder_tables import is_table
from .recognition import other_export

MAX_FILES, MAX_FOLDERS = 200, 100  # that are looked at
COCO = "export it as COCO JSON with polygons or masks"
PNG = "save each mask as a PNG file with one number per pixel"
BOXES = "it has boxes only, but masks need outlines"


class _Kind(NamedTuple):
    name: str  # pattern of the relative path
    head: str  # pattern that the first characters contain
    title: str
    advice: str


KINDS = [
    _Kind(r"\.tfrecords?\b", "", "a TFRecord file", COCO),
    _Kind(r"\.csv$", "region_shape_attributes", "a CSV export of VIA", "export the annotations as JSON from VIA 2"),
    _Kind(r"\.csv$", "(?i)encodedpixels|\brle", "a table of run lengths", PNG),
    _Kind(r"\.csv$", "(?i)xmin|x_min|x1", "a table of boxes", BOXES),
    _Kind(r"\.(ndjson|jsonl?)$", '"data_row"', "a Labelbox export", COCO),
    _Kind(
        r"_polygons\.json$",
        '"imgHeight"',
        "a Cityscapes file of polygons",
        "put the label maps *_labelIds.png into masks/ and name their numbers in classes.txt",
    ),
    _Kind(r"(^|/)label_2/.*\.txt$", "", "a KITTI label file", BOXES),
    _Kind(r"\.nii(\.gz)?$", "", "a NIfTI volume", "save each slice and its mask as PNG files"),
    _Kind(r"\.(npy|npz|mat)$", "", "a file of arrays", PNG),
    _Kind(r"\.(h5|hdf5)$", "", "an HDF5 file", PNG),
    _Kind(r"\.(parquet|arrow)$", "", "a table with embedded data", PNG),
    _Kind(r"\.svg$", "", "a vector graphic", PNG),
    _Kind(r"\.json$", '"tracks"|"shapes"', "a CVAT backup", 'export it from CVAT as "CVAT for images 1.1"'),
    _Kind(r"\.json$", '"poly2d"', "a file in the format of BDD100K or Scalabel", COCO),
    _Kind(r"\.json$", '"export_format_version"', "a Hasty export", COCO),
    _Kind(r"\.(json|jsonl|ndjson|csv|tsv|xml|txt)$", "", "a file in a format that is not known", COCO),
]


def unread_export(root: Path) -> str | None:
    """Return what the annotations in a data folder are and what to do with them, or None if there are none."""
    if known := other_export(root):
        return known
    files = [(path, path.relative_to(root).as_posix()) for path in _files(root)]
    for kind in KINDS:
        for path, name in files:
            if re.search(kind.name, name, re.IGNORECASE) and re.search(kind.head, head_of(path) if kind.head else ""):
                return f"{name} is {kind.title}: {kind.advice}"
    return None


def unmatched_mask(folder: Path, stem: str) -> str | None:
    """Return how to rename a mask that belongs to no photo, or None if there are no masks.

    Args:
        folder: of a split.
        stem: of a photo.
    """
    place = find_place(folder, MASKS)
    for here, _, names in walk(place):
        for name in names:
            if is_image(here / name):
                found = (here / name).relative_to(folder).as_posix()
                return f"{found} does not have the name of a photo: rename the masks, such as {place.name}/{stem}.png"
    return None


def _files(root: Path) -> Iterator[Path]:
    """Yield the first files below a folder that are neither photos nor tables of this format."""
    num_files = 0
    for number, (here, _, names) in enumerate(walk(root)):
        if number == MAX_FOLDERS:
            return
        for name in names:
            if not is_image(here / name) and not is_table(name) and not name.lower().startswith("readme"):
                num_files += 1
                yield here / name
                if num_files == MAX_FILES:
                    return
