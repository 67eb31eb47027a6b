"""Find the files of a user's own folder: which masks, labels and questions belong to which photo.

    images/1.jpg            a photo in any image format, also in folders: images/kitchen/1.jpg
    masks/1.png             its label map; or one mask for each class: masks/1_cat.png or masks/1/cat.png
    images/1.json           or labels/1.json: its shapes from LabelMe

folder_places.py finds these folders. Names are compared in Unicode's composed form, because macOS writes them
decomposed.
"""

import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from gemma_lisa.datasets_builder.formats.annotated import AnnotatedImage
from gemma_lisa.datasets_builder.formats.coco_files import SPLIT_WORDS, exists, path_inside
from gemma_lisa.datasets_builder.formats.file_search import walk
from gemma_lisa.datasets_builder.formats.folder_listing import composed
from gemma_lisa.datasets_builder.formats.frames import Frame
from gemma_lisa.datasets_builder.rows import is_unicode
from gemma_lisa.safety.short_text import listed, show

from .folder_places import IMAGES, LABELS, MASKS, find_place, is_image, paths_in
from .folder_tables import CLASS_FILES, Question, is_table

ANNOTATION_SUFFIXES = (".json", ".jsonl", ".csv", ".txt", ".xml", ".yaml", ".yml")
LAYOUT = (
    "put the photos into images/, and for images/1.jpg its mask into masks/1.png or its LabelMe file into labels/1.json"
)
MAX_DEPTH = 8  # folders in images/ and masks/: a link can lead to its own parent
# Suffixes that data sets give their photos but not their masks: nnU-Net, Cityscapes, DeepGlobe
PHOTO_SUFFIXES = ("0000", "leftImg8bit", "sat", "image", "img", "rgb", "photo")
PHOTO_PREFIXES = ("image", "img", "photo")
MASK_PREFIXES = ("mask", "masks", "gt", "seg", "label", "labels", "segmentation", "annotation")
MASK_SUFFIXES = (*MASK_PREFIXES, "groundtruth", "matte", "alpha")


@dataclass
class Photo:
    """A photo and the files that belong to it."""

    path: Path
    folder: Path  # of its split; it contains images/
    masks: list[tuple[str | None, Path]] = field(default_factory=list)  # the rest of the mask's file name, if any
    labels: Path | None = None  # file of LabelMe
    questions: list[Question] = field(default_factory=list)
    key: str = ""  # name in its split, if not the stem of the path: its path below images/ without the suffix
    annotated: list[AnnotatedImage] = field(default_factory=list)  # its records in the file of a labelling tool
    frames: list[Frame | ValueError] = field(default_factory=list)  # of these records

    @property
    def stem(self) -> str:
        return self.key or composed(self.path.stem)


def find_folders(root: Path, advice: str | None = None) -> dict[str, Path]:
    """Return the folder of each split, which contains images/. A folder without splits is "train".

    Args:
        root: the data folder.
        advice: what else was found there and what to do with it; None: how to arrange the files.

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
        there = listed(f"{path.name}/" if path.is_dir() else path.name for path in paths_in(root)) or "nothing"
        raise ValueError(f"{root}: contains neither images/ nor train/images/, only {there}; {advice or LAYOUT}.")
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
    unused: list[Path] = field(default_factory=list)  # images in labels/, because the masks are in masks/
    names: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # other names: stems of photos

    def listed(self, folder: Path) -> list[Path]:
        """Return the paths in a folder as `paths_in` does; add an error for each relevant name that is not UTF-8."""
        paths = []
        for path in paths_in(folder):
            if is_unicode(path.name) or not (is_image(path) or path.is_dir() or path.suffix.lower() == ".json"):
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

    def owner(self, stem: str, path: Path, kind: str) -> tuple[Photo, str | None] | None:
        """Return the photo of a mask or label, and the rest of its name.

        Without such a photo, or with several, add an error and return None.
        """
        for name, rest in _splits_of(stem):
            stems = [name] if name in self.photos else self.names.get(name, [])
            if len(stems) == 1:
                return self.photos[stems[0]], rest
            if stems:
                self.add_error(path, f"belongs to {' and '.join(stems[:2])}; move it into a folder as in images/")
                return None
        self.add_unmatched(path, kind)
        return None

    def knows(self, stem: str) -> bool:
        """Return whether a photo has this name, or several."""
        return any(name in self.photos or name in self.names for name, _ in _splits_of(stem))

    def add_names(self) -> None:
        """Add the other names by which masks and labels find photos."""
        stems = list(self.photos)
        for stem in stems:
            self.names[f"{stem}{self.photos[stem].path.suffix}"].append(stem)  # masks/1.jpg.png
            if "/" in stem:
                self.names[stem.rpartition("/")[2]].append(stem)
        for suffix in PHOTO_SUFFIXES:
            if stems and all(stem.endswith(f"_{suffix}") for stem in stems):
                for stem in stems:
                    self.names[stem.removesuffix(f"_{suffix}")].append(stem)
        for prefix in PHOTO_PREFIXES:
            if stems and all(stem.startswith(f"{prefix}_") for stem in stems):
                for stem in stems:
                    self.names[stem.removeprefix(f"{prefix}_")].append(stem)


def pair_up(folder: Path, asked: set[Path]) -> Pairs:
    """Match the photos of a split with their masks and labels.

    Args:
        folder: of the split.
        asked: masks that questions name; these need no photo with their name.
    """
    pairs = Pairs()
    labels = _add_photos(pairs, find_place(folder, IMAGES), folder)
    pairs.add_names()
    mask_place, label_place = find_place(folder, MASKS), find_place(folder, LABELS)
    _add_masks(pairs, mask_place, asked)
    if mask_place == label_place:
        pairs.others = [path for path in pairs.others if path.suffix.lower() != ".json"]
    for stem, path in labels + _label_files(pairs, label_place, has_masks=mask_place == label_place):
        found = pairs.owner(stem, path, "LabelMe file")
        if found is None:
            continue
        if found[1]:
            pairs.add_unmatched(path, "LabelMe file")
        elif found[0].labels or found[0].masks:
            other = found[0].labels or found[0].masks[0][1]
            option = "" if found[0].labels else ', or set the option format to "labelme"'
            pairs.add_error(path, f"{other} belongs to the same photo; keep one of the two{option}")
        else:
            found[0].labels = path
    return pairs


def _label_files(pairs: Pairs, place: Path, has_masks: bool, above: str = "") -> list[tuple[str, Path]]:
    """Return the JSON files of labels/ and the stems of their photos. Add other files to `pairs`.

    Args:
        has_masks: the images in it are the masks.
        above: as in `_add_photos`.
    """
    labels = []
    for path in pairs.listed(place):
        if path.is_dir() and above.count("/") < MAX_DEPTH:
            labels += _label_files(pairs, path, has_masks, f"{above}{path.name}/")
        elif path.suffix.lower() == ".json" and path.name.lower() not in CLASS_FILES:
            labels.append((composed(above + path.stem), path))
        elif not has_masks and path.name.lower() not in CLASS_FILES:
            (pairs.unused if is_image(path) else pairs.others).append(path)
    return labels


def _add_photos(pairs: Pairs, place: Path, folder: Path, above: str = "") -> list[tuple[str, Path]]:
    """Add the photos of a split to `pairs`. Return the JSON files next to them and the stems of their photos.

    above: path of the place below images/, with a slash at its end.
    """
    labels = []
    for path in pairs.listed(place):
        stem = composed(above + path.stem)
        if path.is_dir():
            if above.count("/") < MAX_DEPTH:
                labels += _add_photos(pairs, path, folder, f"{above}{path.name}/")
            else:
                pairs.add_error(path, f"is a folder at a depth of more than {MAX_DEPTH}; move its photos into images/")
        elif path.suffix.lower() == ".json":
            labels.append((stem, path))
        elif not is_image(path):
            pairs.others.append(path)
        elif stem in pairs.photos:
            pairs.add_error(path, f"{pairs.photos[stem].path.name} has the same name; rename one of the two")
        else:
            pairs.photos[stem] = Photo(path, folder, key=stem)
    return labels


def _add_masks(pairs: Pairs, place: Path, asked: set[Path], above: str = "") -> None:
    """Add the masks of a split to their photos. above: as in `_add_photos`."""
    for path in pairs.listed(place):
        stem = composed(above + path.stem)
        if path.is_dir():
            _add_mask_folder(pairs, path, asked, above)
        elif not is_image(path):
            pairs.others += [path] if path.name.lower() not in CLASS_FILES else []
        elif path in asked and not pairs.knows(stem):
            continue
        elif found := pairs.owner(stem, path, "mask"):
            found[0].masks.append((found[1], path))


def _add_mask_folder(pairs: Pairs, path: Path, asked: set[Path], above: str) -> None:
    """Add a folder with the masks of one photo, or one that is also in images/."""
    name = composed(above + path.name)
    photo = pairs.photos.get(name)
    if photo is None and len(stems := pairs.names.get(name, [])) == 1:
        photo = pairs.photos[stems[0]]
    is_place = any(stem.startswith(f"{name}/") for stem in pairs.photos)
    inside = pairs.listed(path)
    masks = [mask for mask in inside if is_image(mask)]
    if photo and is_place:
        pairs.add_error(path, f"belongs to {photo.path.name} and to the folder {name}/ in images/; rename one of them")
    elif photo:
        photo.masks += [(composed(mask.stem), mask) for mask in masks]
        pairs.others += [mask for mask in inside if not is_image(mask)]
    elif is_place:
        _add_masks(pairs, path, asked, f"{name}/")
    elif set(masks) - asked or any(other.is_dir() for other in inside):
        pairs.add_unmatched(path, "folder of masks")
    else:
        pairs.others += [mask for mask in inside if not is_image(mask)]


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
            file = f"{photo.stem}{photo.path.suffix}"
            names = {photo.path.stem, photo.path.name, photo.stem, file, f"{IMAGES}/{file}", f"{IMAGES}/{photo.stem}"}
            for name in {*map(composed, names | {photo.path.relative_to(root).as_posix()})}:
                called[name].append((split, photo))
    for question in questions:
        found = called.get(composed(os.path.normpath(question.image.replace("\\", "/"))), [])
        # In a folder without splits, the questions define the splits
        if question.split and root not in [photo.folder for _, photo in found]:
            found = [(split, photo) for split, photo in found if split == question.split]
        if len(found) == 1:
            found[0][1].questions.append(question)
        elif found and len({split for split, _ in found}) == 1:
            both = " and ".join(photo.stem for _, photo in found[:2])
            errors.append(ValueError(f"{question.where}: {show(question.image)} is {both}; write one of these paths."))
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
    found = []
    for here, _, names in walk(root):
        found += [here / name for name in names if is_table(name) or name.lower().endswith(ANNOTATION_SUFFIXES)]
    return {str(path): path for path in sorted(found) if path.is_file()}


def _splits_of(stem: str) -> list[tuple[str, str | None]]:
    """Return the names that a photo of this mask can have, the best first, and the rest of the mask's name.

    "1_a_cat": 1_a_cat, 1_a (cat), 1 (a_cat). "mask_1" and "1-mask": 1.
    """
    above, slash, name = stem.rpartition("/")
    found = [(stem, None)]
    for separator in ("_", "-", ".", " "):
        first, is_there, last = name.rpartition(separator)
        if is_there and last.lower() in MASK_SUFFIXES:
            found.append((above + slash + first, last))
        first, is_there, last = name.partition(separator)
        if is_there and first.lower() in MASK_PREFIXES:
            found.append((above + slash + last, None))
    whole, rest = name, None
    while "_" in whole:
        whole, _, last = whole.rpartition("_")
        rest = last if rest is None else f"{last}_{rest}"
        found.append((above + slash + whole, rest))
    return found
