"""Read the JSON files of LabelMe, in any folders.

    images/1.jpg, images/1.json             next to the photo
    train/images/1.jpg, train/labels/1.json in another folder
    photos/1.jpg, all_labels/5.json         named differently: `imagePath` in the file names the photo

Folders named train, val or test define the splits.
"""

import os
import re
from collections import defaultdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from gemma_lisa.safety.short_text import listed, name_of, show

from .annotated import AS_SIZE, AnnotatedImage, AnnotatedObject, AnnotationFormat, Notes
from .json_files import read_json
from .json_kinds import INSTANCES, advice_for, kind_of_json
from .labelme_shapes import Shapes
from .photo_names import NO_PHOTOS, PhotoNames, name_key
from .tool_folders import by_split, files_below, head_of, is_in_other_split, photo_suffixes, split_in

ADVICE = "save it again in LabelMe"
KEYS = re.compile(r'"(shapes"\s*:\s*\[|imagePath"\s*:|imageData"\s*:)')  # in the first characters of a file
REASON_SEG = '"is_sentence"'  # in files of ReasonSeg, which also have shapes
FEW_FILES = 20  # JSON files that are looked at to recognize the format
LABEL_FOLDERS = {"label", "labels"}  # photos can be next to their files in them
OTHER_FILES = "skipped JSON files that are not from LabelMe"
NO_FILE = "skipped photos without a LabelMe file"
BY_FILE_NAME = "found photos by the name of their LabelMe file, because imagePath names another photo or none"
NO_SPLIT = "used photos outside of the folders of the splits for train"
NO_SIZE = "ignored invalid sizes in LabelMe files"


class LabelMeFile(NamedTuple):
    """What a file states about its photo."""

    path: Path
    image_path: str  # "" if it is missing
    has_data: bool  # contains the photo
    size: tuple[int, int] | None  # (height, width) in pixels
    flags: dict
    error: ValueError | None  # the file cannot be read


def recognizes(folder: Path) -> bool:
    """Return whether one of the first JSON files below a folder is from LabelMe."""
    return any(_is_labelme(head_of(file)) for file in islice(files_below(folder, {".json"}), FEW_FILES))


def read(folder: Path, notes: Notes) -> dict[str, list[AnnotatedImage]]:
    """Return the photos of each split that have a LabelMe file.

    Raises:
        ValueError: there is no LabelMe file.
    """
    files = [file for path in files_below(folder, {".json"}) if (file := _read_head(path, notes)) is not None]
    if not files:
        raise ValueError(f"{folder}: contains no JSON file of LabelMe; save the annotations in LabelMe.")
    finder = PhotoFinder(folder, files, notes)
    images, splits, owners = [], [], {}
    for file in files:
        path, error = finder.find(file)
        error = file.error or error
        if owners.setdefault(path, file.path) != file.path and error is None:
            error = ValueError(f"{file.path}: {owners[path]} belongs to the same photo {path}; keep one of the two.")
        images.append(_image(file, path, error, notes))
        places = (os.path.relpath(place.parent, folder) for place in (file.path, path))
        splits.append(next(filter(None, map(split_in, places)), None))
    for path in finder.photos:
        if path not in owners:
            notes.add(NO_FILE, str(path), path)
    if any(splits):
        for image, split in zip(images, splits, strict=True):
            if split is None:
                notes.add(NO_SPLIT, image.where, image.path)
    return by_split(images, splits)


FORMAT = AnnotationFormat("LabelMe JSON files", recognizes, read, free_names=True)


def annotated_image(file: Path, photo: Path, notes: Notes) -> AnnotatedImage:
    """Return a photo with the objects of its LabelMe file."""
    size = error = None
    try:
        size = _size(_content(file))
    except ValueError as wrong:
        error = wrong
    return _image(LabelMeFile(file, "", False, size, {}, error), photo, error, notes)


class PhotoFinder:
    """Find the photo of each LabelMe file.

    Args:
        root: the data folder.
        files: all LabelMe files below it.
        notes: counts the photos that `imagePath` does not name.
    """

    def __init__(self, root: Path, files: list[LabelMeFile], notes: Notes):
        self.root, self.notes = root, notes
        self.photos = [path for path in files_below(root, photo_suffixes()) if not _is_mask(path.relative_to(root))]
        self._stems = defaultdict(list)
        for path in self.photos:
            self._stems[name_key(path.stem)].append(path)
        self._labelled = {_stem(file.path) for file in files}
        self._names = PhotoNames([root])

    def find(self, file: LabelMeFile) -> tuple[Path, ValueError | None]:
        """Return the path of a photo and None, or the path where it is missing and an error.

        `imagePath` decides, except if it names a photo that has a LabelMe file of its own: renamed or copied LabelMe
        files contain the old name.
        """
        path, error = self._by_image_path(file)
        if path is not None and name_key(path.stem) == _stem(file.path):
            return path, None
        same_stem = self._by_stem(file)
        if path is not None and (same_stem is None or name_key(path.stem) not in self._labelled):
            return path, None
        if same_stem is not None:
            named = file.image_path.replace("\\", "/").rpartition("/")[2]
            if named and name_key(named) != name_key(same_stem.name):
                self.notes.add(BY_FILE_NAME, f"{file.path}: {same_stem}, not {show(file.image_path)}", same_stem)
            return same_stem, None
        missing = Path(file.path.parent, Path(file.image_path.replace("\\", "/").replace("\0", "")).name or "photo")
        if file.has_data:
            return missing, ValueError(
                f"{file.path}: its photo {name_of(missing.name)} is missing. The file contains it as imageData; save "
                "it from there as an image with this name."
            )
        return missing, error

    def _by_image_path(self, file: LabelMeFile) -> tuple[Path | None, ValueError | None]:
        """Return the photo that `imagePath` names and None, or None and an error."""
        name = file.image_path.replace("\\", "/")
        relative = os.path.normpath(os.path.join(os.path.relpath(file.path.parent, self.root), name))
        if name and not os.path.isabs(name) and not relative.startswith(".."):
            name = relative
            for path in (self.root / relative, file.path.parent / os.path.basename(relative)):
                if path.suffix.lower() in photo_suffixes() and os.path.isfile(path):
                    return path, None
        try:
            path = self._names.find(name, str(file.path))
        except ValueError as error:
            return None, error
        if not self._is_in_other_split(path, file.path):
            return path, None
        return None, ValueError(
            f"{file.path}: its photo {path} is in another split; add the photo, or move one of them."
        )

    def _by_stem(self, file: LabelMeFile) -> Path | None:
        """Return the photo with the stem of a file that shares most folders with it; None if two share equally.

        Of train/images/1.jpg and val/images/1.jpg, the first is nearest to train/labels/1.json.
        """
        paths, other = self._stems.get(_stem(file.path), []), file.path.parent.parts
        if beside := [path for path in paths if path.parent == file.path.parent]:
            return beside[0] if len(beside) == 1 else None
        ranks = defaultdict(list)
        for path in paths:
            one = path.parent.parts
            if not self._is_in_other_split(path, file.path):
                ranks[len(set(one) & set(other)), len(os.path.commonprefix([one, other]))].append(path)
        best = ranks[max(ranks)] if ranks else []
        return best[0] if len(best) == 1 else None

    def _is_in_other_split(self, path: Path, file: Path) -> bool:
        return is_in_other_split(path, split_in(os.path.relpath(file.parent, self.root)), self.root)


def _image(file: LabelMeFile, path: Path, error: ValueError | None, notes: Notes) -> AnnotatedImage:
    def objects() -> list[AnnotatedObject]:
        if error is not None:
            raise error
        return Shapes(file.path, path, file.size, notes).objects(_content(file.path)["shapes"])

    name = file.image_path.replace("\\", "/") or path.name
    fields = {"flags": file.flags} if file.flags else {}
    return AnnotatedImage(path, str(file.path), name, objects, file.size, frame=AS_SIZE, fields=fields)


def _read_head(path: Path, notes: Notes) -> LabelMeFile | None:
    """Return what a JSON file states about its photo; None if it is not from LabelMe."""
    head = head_of(path)
    if REASON_SEG in head:
        return notes.add(OTHER_FILES, str(path))
    try:
        content = _content(path)
    except ValueError as error:
        if not _is_labelme(head):
            return notes.add(OTHER_FILES, str(path))
        return LabelMeFile(path, "", False, None, {}, error)
    image_path, flags = content.get("imagePath"), content.get("flags")
    sides = content.get("imageHeight"), content.get("imageWidth")
    size = _size(content)
    if size is None and sides != (None, None):
        notes.add(NO_SIZE, f"{path}: {listed(sides)}")
    return LabelMeFile(
        path,
        image_path if isinstance(image_path, str) else "",
        bool(content.get("imageData")),
        size,
        flags if isinstance(flags, dict) else {},
        None,
    )


def _content(file: Path) -> dict[str, Any]:
    content = read_json(file, ADVICE)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        kind = kind_of_json(content)
        if kind not in (None, INSTANCES) and "LabelMe" not in kind:
            raise ValueError(f"{file} is {kind}: {advice_for(kind)}.")
        raise ValueError(f"{file}: the list shapes is missing; save the file in LabelMe.")
    return content


def _size(content: dict[str, Any]) -> tuple[int, int] | None:
    """Return (height, width) in pixels, or None if the file does not state both."""
    size = content.get("imageHeight"), content.get("imageWidth")
    return size if all(type(side) is int and side > 0 for side in size) else None


def _is_labelme(head: str) -> bool:
    return head.lstrip().startswith("{") and KEYS.search(head) is not None and REASON_SEG not in head


def _stem(file: Path) -> str:
    """Return the key of the photo of 1.json or 1.jpg.json."""
    stem, suffix = os.path.splitext(file.stem)
    return name_key(stem if suffix.lower() in photo_suffixes() else file.stem)


def _is_mask(path: Path) -> bool:
    return any(part.lower() in NO_PHOTOS - LABEL_FOLDERS for part in path.parts[:-1])
