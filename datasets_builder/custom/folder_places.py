"""Find the folders of photos, masks and labels in a user's own folder, also under other usual names."""

import functools
from pathlib import Path

from PIL import Image

from gemma_lisa.datasets_builder.formats.coco_files import SPLIT_WORDS
from gemma_lisa.datasets_builder.formats.file_search import is_visible

IMAGES, MASKS, LABELS = "images", "masks", "labels"
# Used if images/ or masks/ does not exist, in this order. labels/ contains LabelMe files, masks or both
OTHER_NAMES = {
    IMAGES: ("imagestr",),
    MASKS: ("labels", "label", "labelstr", "annotations", "annotation", "gt", "groundtruth", "ground_truth")
    + ("segmentations", "segmentation"),
    LABELS: (),
}


def find_place(folder: Path, name: str) -> Path:
    """Return `folder`/`name`, or the folder that is used instead if that one does not exist.

    These are the singular name, both in another letter case, and for masks folders such as labels/ that contain images.

    Args:
        name: IMAGES, MASKS or LABELS.
    """
    plural, singular = folder / name, folder / name.removesuffix("s")
    if plural.exists() or not folder.is_dir():
        return plural
    if singular.is_dir():
        return singular
    below = {}
    for path in paths_in(folder):
        if path.is_dir():
            below.setdefault(path.name.lower(), path)
    for other in (name, singular.name):
        if other in below:
            return below[other]
    for other in OTHER_NAMES[name]:
        if other in below and (name == IMAGES or _contains_masks(below[other], find_place(folder, IMAGES))):
            return below[other]
    return plural


def place_remarks(folders: dict[str, Path]) -> list[str]:
    """Return one text for each folder with another name: that it is used, or that it is ignored."""
    remarks = []
    for folder in folders.values():
        for name in (IMAGES, MASKS, LABELS):
            found, singular = find_place(folder, name), folder / name.removesuffix("s")
            if found != folder / name:
                remarks.append(f"{found}: used as {name}/, which does not exist")
            elif singular.is_dir():
                remarks.append(f"{singular}: ignored because {name}/ exists")
    for split, folder in folders.items():
        for path in paths_in(find_place(folder, IMAGES)):
            if path.is_dir() and SPLIT_WORDS.get(path.name.lower(), split) != split:
                there = f"{path.name}/images/ and {path.name}/masks/"
                remarks.append(f"{path}: its photos are in {split}; to make them a split, move the files to {there}")
    return remarks


def paths_in(folder: Path) -> list[Path]:
    """Return the sorted paths in a folder without hidden and system files; [] if the folder does not exist."""
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if is_visible(path.name)]


def is_image(path: Path) -> bool:
    return path.suffix.lower() in _suffixes() and path.is_file()


def _contains_masks(folder: Path, images: Path) -> bool:
    """Return whether there is an image in a folder, or in a folder in it whose name is also in images/."""
    paths = paths_in(folder)
    shared = (path for path in paths if (images / path.name).is_dir())
    return any(map(is_image, paths)) or any(is_image(path) for place in shared for path in paths_in(place))


@functools.cache
def _suffixes() -> set[str]:
    """Return the suffixes of the image formats that Pillow can read."""
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
