"""A user's own folder on disk: which masks, labels and questions belong to which picture.

    images/1.jpg            a picture of any kind
    masks/1.png             its label map; or one mask for each class, as masks/1_cat.png or masks/1/cat.png
    images/1.json           or labels/1.json: its shapes, drawn with LabelMe

Names are compared in Unicode's composed form, for a Mac writes them decomposed.
"""

import functools
import hashlib
import os
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from gemma_lisa.datasets_builder.formats.coco_files import SPLIT_WORDS, path_inside
from gemma_lisa.datasets_builder.rows import is_unicode
from gemma_lisa.safety.short_text import show

from .folder_tables import CLASS_FILES, Question, is_table

IMAGES, MASKS, LABELS = "images", "masks", "labels"
NOT_THE_USERS = ("Thumbs.db", "desktop.ini", "__MACOSX")  # what systems leave in folders, besides hidden files
LAYOUT = "put the pictures into images/, and the mask of images/1.jpg into masks/1.png or its LabelMe file into labels/"


@dataclass
class Photo:
    """A picture and what belongs to it."""

    path: Path
    folder: Path  # of its split, that holds images/
    masks: list[tuple[str | None, Path]] = field(default_factory=list)  # the rest of the mask's name, if there is one
    labels: Path | None = None  # of LabelMe
    questions: list[Question] = field(default_factory=list)

    @property
    def stem(self) -> str:
        return composed(self.path.stem)


def find_folders(root: Path) -> dict[str, Path]:
    """The folder of each split, that holds images/; one without splits is "train".

    Raises:
        ValueError: there is none, or more than one of a split.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder.")
    found = defaultdict(list)
    for path in sorted(path for path in root.iterdir() if path.name.lower() in SPLIT_WORDS):
        if (path / IMAGES).is_dir():
            found[SPLIT_WORDS[path.name.lower()]].append(path)
    if (root / IMAGES).is_dir():
        if found:
            places = ", ".join(f"{path.name}/images/" for paths in found.values() for path in paths)
            raise ValueError(f"{root}: holds images/ and also {places}; move the pictures into one or the other.")
        return {"train": root}
    if not found:
        raise ValueError(f"{root}: holds neither images/ nor train/images/; {LAYOUT}.")
    for split, paths in found.items():
        if len(paths) > 1:
            raise ValueError(f"{root}: {' and '.join(path.name for path in paths)} are both {split}; keep one.")
    return {split: path for split, [path] in found.items()}


@dataclass
class Pairs:
    """What lies in a split's folder, and belongs together."""

    photos: dict[str, Photo] = field(default_factory=dict)  # by their stems
    complaints: list[ValueError] = field(default_factory=list)  # a line for each file that has no partner, or two
    others: list[Path] = field(default_factory=list)  # what is no picture, mask or LabelMe file

    def listed(self, folder: Path) -> list[Path]:
        """As `_listed`, but what a row would name and cannot, for its name is in no UTF-8, is complained of instead."""
        paths = []
        for path in _listed(folder):
            if is_unicode(path.name) or not (_is_picture(path) or path.is_dir() or path.suffix.lower() == ".json"):
                paths.append(path)
            else:
                self.complaints.append(ValueError(f"{ascii(str(path))}: its name is not in UTF-8; rename it."))
        return paths

    def complain(self, path: Path, words: str) -> None:
        self.complaints.append(ValueError(f"{path}: {words}."))

    def complain_alone(self, path: Path, kind: str) -> None:
        stem = composed(path.stem)
        for other in self.others:
            if other.parent.name == IMAGES and composed(other.stem) in (stem, stem.rpartition("_")[0]):
                return self.complain(path, f"its picture {other.name} cannot be opened here; save it as JPEG or PNG")
        self.complain(path, f"is {kind} of no picture; add its picture to images/ under this name, or take this out")


def pair_up(folder: Path, asked: set[Path]) -> Pairs:
    """The pictures of a split with their masks and labels.

    asked: masks that questions name; they need no picture of their name.
    """
    pairs = Pairs()
    labels = _add_pictures(pairs, folder)
    _add_masks(pairs, folder, asked)
    for path in labels + [path for path in pairs.listed(folder / LABELS) if path.name.lower() not in CLASS_FILES]:
        photo = pairs.photos.get(composed(path.stem))
        if path.suffix.lower() != ".json":
            pairs.others.append(path)
        elif photo is None:
            pairs.complain_alone(path, "the LabelMe file")
        elif photo.labels or photo.masks:
            pairs.complain(path, f"{photo.labels or photo.masks[0][1]} is of the same picture; keep one of the two")
        else:
            photo.labels = path
    return pairs


def _add_pictures(pairs: Pairs, folder: Path) -> list[Path]:
    """The JSON files beside the pictures."""
    labels = []
    for path in pairs.listed(folder / IMAGES):
        stem = composed(path.stem)
        if path.is_dir():
            pairs.complain(path, "is a folder in images/; move its pictures up into images/")
        elif path.suffix.lower() == ".json":
            labels.append(path)
        elif not _is_picture(path):
            pairs.others.append(path)
        elif stem in pairs.photos:
            pairs.complain(path, f"{pairs.photos[stem].path.name} has the same name; rename one of the two")
        else:
            pairs.photos[stem] = Photo(path, folder)
    return labels


def _add_masks(pairs: Pairs, folder: Path, asked: set[Path]) -> None:
    for path in pairs.listed(folder / MASKS):
        if path.is_dir():
            inside = pairs.listed(path)
            pictures = [mask for mask in inside if _is_picture(mask)]
            pairs.others += [mask for mask in inside if not _is_picture(mask)]
            if photo := pairs.photos.get(composed(path.name)):
                photo.masks += [(composed(mask.stem), mask) for mask in pictures]
            elif set(pictures) - asked:
                pairs.complain_alone(path, "the folder of masks")
        elif not _is_picture(path):
            pairs.others += [path] if path.name.lower() not in CLASS_FILES else []
        elif owner := _owner(composed(path.stem), pairs.photos):
            pairs.photos[owner].masks.append((composed(path.stem)[len(owner) + 1 :] or None, path))
        elif path not in asked:
            pairs.complain_alone(path, "the mask")


def share_out(questions: list[Question], photos: dict[str, dict[str, Photo]], root: Path) -> list[ValueError]:
    """Give each question to its picture; gives a line for each that names none, or several.

    photos: of every split's folder, by their stems; root: the whole folder.
    """
    called, complaints = defaultdict(list), []
    for split, of_split in photos.items():
        for photo in of_split.values():
            names = {photo.path.stem, photo.path.name, f"{IMAGES}/{photo.path.name}"}
            for name in names | {photo.path.relative_to(root).as_posix()}:
                called[composed(name)].append((split, photo))
    for question in questions:
        found = called.get(composed(os.path.normpath(question.image.replace("\\", "/"))), [])
        # A folder without splits is split by what the questions say
        if question.split and (root / IMAGES) not in [photo.path.parent for _, photo in found]:
            found = [(split, photo) for split, photo in found if split == question.split]
        if len(found) == 1:
            found[0][1].questions.append(question)
        elif found:
            splits = " and ".join(split for split, _ in found)
            words = f"{show(question.image)} is in {splits}; say which in a column split"
            complaints.append(ValueError(f"{question.where}: {words}."))
        else:
            of_split = f" of {question.split}" if question.split else ""
            words = f"no picture{of_split} is called {show(question.image)}; write its name as in images/"
            complaints.append(ValueError(f"{question.where}: {words}."))
    return complaints


def split_up(photos: dict[str, Photo], validation_share: float) -> tuple[dict[str, list[Photo]], list[ValueError]]:
    """The pictures of a folder without splits by splits, and a line for each that its questions put into two.

    A picture is where its questions say; where they do not, the hash of its stem puts such a share into validation.
    """
    splits, complaints = defaultdict(list), []
    for photo in photos.values():
        said = {question.split: question.where for question in photo.questions if question.split}
        if len(said) > 1:
            (one, here), (other, there) = list(said.items())[:2]
            complaints.append(ValueError(f"{there}: says {other} of {photo.path.name}, but {here} says {one}."))
            continue
        place = int.from_bytes(hashlib.sha256(photo.stem.encode()).digest()[:8], "big") / 2**64
        splits[next(iter(said), "validation" if place < validation_share else "train")].append(photo)
    return dict(splits), complaints


def find_mask(name: str, folder: Path, root: Path, where: str) -> Path | None:
    """The mask that a question names: below its picture's split, its masks/, or the whole folder."""
    for place in (folder, folder / MASKS, root):
        path = path_inside(place, name, (root,), where)
        if path.is_file():
            return path
    return None


def text_files(root: Path, folders: dict[str, Path]) -> dict[str, Path]:
    """All files of tables, classes and labels, by their paths."""
    places = {root, *folders.values()}
    places |= {folder / name for folder in folders.values() for name in (IMAGES, MASKS, LABELS)}
    found = [path for place in places for path in _listed(place) if path.is_file()]
    return {str(path): path for path in sorted(found) if is_table(path.name) or path.suffix.lower() == ".json"}


def composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _listed(folder: Path) -> list[Path]:
    """What the user put into a folder, sorted; nothing where there is no such folder."""
    if not folder.is_dir():
        return []
    paths = sorted(folder.iterdir())
    return [path for path in paths if not path.name.startswith(".") and path.name not in NOT_THE_USERS]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _suffixes() and path.is_file()


@functools.cache
def _suffixes() -> set[str]:
    """Of the kinds of pictures that Pillow opens, and does not only write."""
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def _owner(stem: str, photos: dict[str, Photo]) -> str | None:
    """The stem of the picture that a mask belongs to: the longest that it begins with, up to an underscore."""
    while stem not in photos:
        stem, underscore, _ = stem.rpartition("_")
        if not underscore:
            return None
    return stem
