"""List the files of a data set's folder by their relative paths, for formats whose files are matched by name."""

import functools
import os
import re
import unicodedata
from collections.abc import Collection
from pathlib import Path

from PIL import Image

from gemma_lisa.datasets_builder.rows import is_unicode
from gemma_lisa.images_gemma_lisa import FORMATS

from .annotated import Notes
from .coco_files import SPLIT_WORDS
from .file_search import walk

UNREADABLE_SUFFIXES = {".heic", ".heif", ".avif"}  # of photos that Pillow can read only with a plugin
SPLIT_FOLDER = re.compile(rf"({'|'.join(SPLIT_WORDS)})[-_]?(\d{{4}})?")  # "train", "val2017"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks; PowerShell writes text in UTF-16


def list_files(root: Path, notes: Notes | None = None) -> dict[str, Path]:
    """Return all files below a folder: {relative path: path}, sorted, without hidden files. Links are followed.

    Relative paths have slashes and Unicode's composed form, because macOS writes names decomposed.

    Args:
        root: the folder.
        notes: counts files whose names are not UTF-8; they are skipped.
    """
    found = {}
    for place, _, names in walk(root):
        start = "" if place == Path(root) else f"{place.relative_to(root).as_posix()}/"
        for name in names:
            if is_unicode(start + name):
                found[composed(start + name)] = place / name
            elif notes is not None:
                notes.add("skipped files whose names are not in UTF-8", ascii(str(place / name)))
    return dict(sorted(found.items()))


def composed(name: str) -> str:
    """Return a name in Unicode's composed form."""
    return unicodedata.normalize("NFC", name)


def is_photo(name: str) -> bool:
    """Return whether a file name has the suffix of an image format."""
    return os.path.splitext(name)[1].lower() in _suffixes()


@functools.cache
def _suffixes() -> set[str]:
    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    return known | UNREADABLE_SUFFIXES


def without_suffix(name: str) -> str:
    return os.path.splitext(name)[0]


def folders_of(name: str) -> list[str]:
    """Return the names of the folders in a relative path of a file."""
    return name.split("/")[:-1]


def split_of(name: str) -> str | None:
    """Return the split that a folder in a relative path names, such as "train" for "images/train2017/1.jpg"."""
    return next(filter(None, map(split_word, folders_of(name))), None)


def split_word(name: str) -> str | None:
    """Return the split that a name stands for: "validation" for "Val" or "valid_2012", None for other names."""
    match = SPLIT_FOLDER.fullmatch(name.strip().lower())
    return SPLIT_WORDS[match[1]] if match else None


def ordered(splits: dict[str, list]) -> dict[str, list]:
    """Return the splits that have photos in the order train, validation, test."""
    order = dict.fromkeys(SPLIT_WORDS.values())
    return {split: splits[split] for split in order if splits.get(split)}


def longest_known(name: str, known: Collection[str]) -> str | None:
    """Return the longest end of a path that is in `known`, or None.

    Files name paths of the machine that wrote them, such as "/content/data/train/1.jpg" for "train/1.jpg" here.
    Folders that name a split are never cut off.
    """
    parts = [part for part in composed(name).replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts:
        return "" if "" in known else None
    for start in range(len(parts)):
        if (end := "/".join(parts[start:])) in known:
            return end
        if split_word(parts[start]):
            return None
    return None


def read_text(file: Path) -> str:
    """Return the text of a file in UTF-8 or, with a byte order mark, UTF-16.

    Raises:
        ValueError: the file cannot be read or has another encoding.
    """
    try:
        content = file.read_bytes()
        return content.decode("utf-16" if content.startswith(UTF_16) else "utf-8-sig")
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8; save it in UTF-8, or export it again.") from error


def first_text(file: Path, length: int) -> str:
    """Return the first characters of a file; "" if it cannot be read. Undecodable characters are replaced."""
    try:
        with file.open("rb") as opened:
            content = opened.read(length)
    except OSError:
        return ""
    return content.decode("utf-16" if content.startswith(UTF_16) else "utf-8-sig", "replace")
