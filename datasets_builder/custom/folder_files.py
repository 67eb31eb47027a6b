"""Find the files of a user's own folder: which masks, labels and questions belong to which photo.

    images/1.jpg            a photo in any image format
    masks/1.png             its label map; or one mask for each class: masks/1_cat.png or masks/1/cat.png
    images/1.json           or labels/1.json: its shapes from LabelMe

`image/`, `mask/` and `label/` are accepted if the folder with the plural name does not exist. Names are compared in
Unicode's composed form because macOS writes them decomposed.
"""

import functools
import os
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from gemma_lisa.datasets_builder.formats.annotated import AnnotatedImage
from gemma_lisa.datasets_builder.formats.coco_files import SPLIT_WORDS, exists, path_inside
from gemma_lisa.datasets_builder.formats.frames import Frame
from gemma_lisa.datasets_builder.rows import is_unicode
from gemma_lisa.safety.short_text import listed, show

from .folder_tables import CLASS_FILES, Question, is_table

IMAGES, MASKS, LABELS = "images", "masks", "labels"
SYSTEM_FILES = ("Thumbs.db", "desktop.ini", "__MACOSX")  # besides hidden files
ANNOTATION_SUFFIXES = (".json", ".jsonl", ".csv", ".txt", ".xml", ".yaml", ".yml")
LAYOUT = (
    "put the photos into images/, and for images/1.jpg its mask into masks/1.png or its LabelMe file into labels/1.json"
)


@dataclass
class Photo:
    """A photo and the files that belong to it."""

    path: Path
    folder: Path  # of its split; it contains images/
    masks: list[tuple[str | None, Path]] = field(default_factory=list)  # the class in the mask's file name, if any
    labels: Path | None = None  # file of LabelMe
    questions: list[Question] = field(default_factory=list)
    key: str = ""  # name in its split, if not the stem of the path
    annotated: list[AnnotatedImage] = field(default_factory=list)  # its records in the file of a labelling tool
    frames: list[Frame | ValueError] = field(default_factory=list)  # of these records

    @property
    def stem(self) -> str:
        return self.key or composed(self.path.stem)


def find_place(folder: Path, name: str) -> Path:
    """Return `folder`/`name`, or the folder with the singular name if only that one exists.

    name: IMAGES, MASKS or LABELS.
    """
    singular = folder / name.removesuffix("s")
    return singular if singular.is_dir() and not (folder / name).exists() else folder / name


def place_remarks(folders: dict[str, Path]) -> list[str]:
    """Return one text for each folder with a singular name: that it is used, or that it is ignored."""
    remarks = []
    for folder in folders.values():
        for name in (IMAGES, MASKS, LABELS):
            singular = folder / name.removesuffix("s")
            if find_place(folder, name) == singular:
                remarks.append(f"{singular}: used as {name}/, which does not exist")
            elif singular.is_dir():
                remarks.append(f"{singular}: ignored because {name}/ exists")
    return remarks


def find_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split, which contains images/. A folder without splits is "train".

    Raises:
        ValueError: there is no such folder, or there are two of a split.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder.")
    found = defaultdict(list)
    for path in sorted(path for path in root.iterdir() if path.name.lower() in SPLIT_WORDS):
        if find_place(path, IMAGES).is_dir():
            found[SPLIT_WORDS[path.name.lower()]].append(path)
    if find_place(root, IMAGES).is_dir():
        if found:
            places = ", ".join(f"{path.name}/images/" for paths in found.values() for path in paths)
            raise ValueError(f"{root}: contains images/ and also {places}; move all photos into one of them.")
        return {"train": root}
    if not found:
        there = listed(f"{path.name}/" if path.is_dir() else path.name for path in _listed(root)) or "nothing"
        raise ValueError(f"{root}: contains neither images/ nor train/images/, only {there}; {LAYOUT}.")
    for split, paths in found.items():
        if len(paths) > 1:
            raise ValueError(f"{root}: {' and '.join(path.name for path in paths)} are both {split}; keep one.")
    return {split: found[split][0] for split in dict.fromkeys(SPLIT_WORDS.values()) if split in found}


@dataclass
class Pairs:
    """The files in the folder of a split, matched by name."""

    photos: dict[str, Photo] = field(default_factory=dict)  # by stem
    errors: list[ValueError] = field(default_factory=list)  # one for each file without a match, or with two
    others: list[Path] = field(default_factory=list)  # files that are not images, masks or LabelMe files

    def listed(self, folder: Path) -> list[Path]:
        """Return the paths in a folder as `_listed` does; add an error for each relevant name that is not UTF-8."""
        paths = []
        for path in _listed(folder):
            if is_unicode(path.name) or not (_is_image(path) or path.is_dir() or path.suffix.lower() == ".json"):
                paths.append(path)
            else:
                self.errors.append(ValueError(f"{ascii(str(path))}: the name is not in UTF-8; rename it."))
        return paths

    def add_error(self, path: Path, text: str) -> None:
        self.errors.append(ValueError(f"{path}: {text}."))

    def add_unmatched(self, path: Path, kind: str) -> None:
        """Add the error that no photo has the name of this file or folder."""
        stem = composed(path.stem)
        for other in self.others:
            if other.parent.name in (IMAGES, IMAGES[:-1]) and composed(other.stem) in (stem, stem.rpartition("_")[0]):
                return self.add_error(path, f"its photo {other.name} cannot be opened; save it as JPEG or PNG")
        self.add_error(path, f"there is no photo for this {kind}; add a photo with this name to images/, or remove it")


def pair_up(folder: Path, asked: set[Path]) -> Pairs:
    """Match the photos of a split with their masks and labels.

    Args:
        folder: of the split.
        asked: masks that questions name; these need no photo with their name.
    """
    pairs = Pairs()
    labels = _add_photos(pairs, folder)
    _add_masks(pairs, folder, asked)
    in_labels = pairs.listed(find_place(folder, LABELS))
    for path in labels + [path for path in in_labels if path.name.lower() not in CLASS_FILES]:
        photo = pairs.photos.get(composed(path.stem))
        if path.suffix.lower() != ".json":
            pairs.others.append(path)
        elif photo is None:
            pairs.add_unmatched(path, "LabelMe file")
        elif photo.labels or photo.masks:
            pairs.add_error(path, f"{photo.labels or photo.masks[0][1]} belongs to the same photo; keep one of the two")
        else:
            photo.labels = path
    return pairs


def _add_photos(pairs: Pairs, folder: Path) -> list[Path]:
    """Add the photos of a split to `pairs`. Return the JSON files next to them."""
    labels = []
    for path in pairs.listed(find_place(folder, IMAGES)):
        stem = composed(path.stem)
        if path.is_dir():
            pairs.add_error(path, "is a folder inside images/; move its photos into images/")
        elif path.suffix.lower() == ".json":
            labels.append(path)
        elif not _is_image(path):
            pairs.others.append(path)
        elif stem in pairs.photos:
            pairs.add_error(path, f"{pairs.photos[stem].path.name} has the same name; rename one of the two")
        else:
            pairs.photos[stem] = Photo(path, folder)
    return labels


def _add_masks(pairs: Pairs, folder: Path, asked: set[Path]) -> None:
    for path in pairs.listed(find_place(folder, MASKS)):
        if path.is_dir():
            inside = pairs.listed(path)
            masks = [mask for mask in inside if _is_image(mask)]
            pairs.others += [mask for mask in inside if not _is_image(mask)]
            if photo := pairs.photos.get(composed(path.name)):
                photo.masks += [(composed(mask.stem), mask) for mask in masks]
            elif set(masks) - asked:
                pairs.add_unmatched(path, "folder of masks")
        elif not _is_image(path):
            pairs.others += [path] if path.name.lower() not in CLASS_FILES else []
        elif owner := _owner(composed(path.stem), pairs.photos):
            pairs.photos[owner].masks.append((composed(path.stem)[len(owner) + 1 :] or None, path))
        elif path not in asked:
            pairs.add_unmatched(path, "mask")


def share_out(questions: list[Question], photos: dict[str, dict[str, Photo]], root: Path) -> list[ValueError]:
    """Add each question to its photo. Return an error for each that names no photo, or several.

    Args:
        questions: of all splits.
        photos: of each split's folder, by stem.
        root: the data folder.
    """
    called, errors = defaultdict(list), []
    for split, of_split in photos.items():
        for photo in of_split.values():
            names = {photo.path.stem, photo.path.name, f"{IMAGES}/{photo.path.name}"}
            for name in names | {photo.path.relative_to(root).as_posix()}:
                called[composed(name)].append((split, photo))
    for question in questions:
        found = called.get(composed(os.path.normpath(question.image.replace("\\", "/"))), [])
        # In a folder without splits, the questions define the splits
        if question.split and root not in [photo.folder for _, photo in found]:
            found = [(split, photo) for split, photo in found if split == question.split]
        if len(found) == 1:
            found[0][1].questions.append(question)
        elif found:
            splits = " and ".join(split for split, _ in found)
            text = f"{show(question.image)} is in {splits}; add a column split to choose one"
            errors.append(ValueError(f"{question.where}: {text}."))
        else:
            in_split = f" in {question.split}" if question.split else ""
            text = f"there is no photo {show(question.image)}{in_split}; write its file name as in images/"
            errors.append(ValueError(f"{question.where}: {text}."))
    return errors


def find_mask(name: str, folder: Path, root: Path, where: str) -> Path | None:
    """Return the path of the mask that a question names, or None.

    It can be relative to the folder of its photo's split, to masks/ in that folder, or to the data folder.
    """
    for place in (folder, find_place(folder, MASKS), root):
        path = path_inside(place, name, (root,), where)
        if exists(path, Path.is_file):
            return path
    return None


def annotation_files(root: Path) -> dict[str, Path]:
    """Return all files below a folder that can be annotations: {path as text: path}, without hidden folders."""
    found, seen = [], set()
    for here, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(here)
        folders[:] = [name for name in folders if not name.startswith(".") and real not in seen]
        if real not in seen:  # not a link to a parent folder
            texts = (name for name in names if is_table(name) or name.lower().endswith(ANNOTATION_SUFFIXES))
            found += [os.path.join(here, name) for name in texts]
        seen.add(real)
    return {path: Path(path) for path in sorted(found) if os.path.isfile(path)}


def composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _listed(folder: Path) -> list[Path]:
    """Return the sorted paths in a folder without hidden and system files; [] if the folder does not exist."""
    if not folder.is_dir():
        return []
    paths = sorted(folder.iterdir())
    return [path for path in paths if not path.name.startswith(".") and path.name not in SYSTEM_FILES]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _suffixes() and path.is_file()


@functools.cache
def _suffixes() -> set[str]:
    """Return the suffixes of the image formats that Pillow can read."""
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def _owner(stem: str, photos: dict[str, Photo]) -> str | None:
    """Return the stem of the photo that a mask belongs to: the longest that it starts with, up to an underscore."""
    while stem not in photos:
        stem, underscore, _ = stem.rpartition("_")
        if not underscore:
            return None
    return stem
