"""Find the images and questions that predict.py is given: image files, folders of images, and tables."""

import csv
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from gemma_lisa.images_gemma_lisa import FORMATS, load_rgb
from gemma_lisa.safety.parsing import csv_delimiter, parse_json
from gemma_lisa.safety.short_text import listed, show

from .command_line import check_path

COLUMNS = ("image", "query")  # of a table
TABLES = (".csv", ".jsonl")
HEIF = "HEIF"  # the format's name in Pillow, once pillow-heif has registered it
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
HEIF_ADVICE = "run `pip install pillow-heif`, or convert {} to JPEG"


def register_heif() -> None:
    """Let Pillow open HEIC images, if pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def picture_suffixes() -> set[str]:
    """Return the file name suffixes of images that can be opened, such as ".png"."""
    return {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}


# ----------------------------------------------------------------------------------------------------------------------
# Images


def expand_folders(paths: list[Path]) -> tuple[list[Path], set[Path]]:
    """Return the image files, with each folder replaced by its images, and those that were found in folders.

    Raises:
        ValueError: a folder without images.
    """
    images, found = [], set()
    for path in paths:
        if path.is_dir():
            images += (files := images_in(path))
            found |= set(files)
        else:
            images.append(path)
    return images, found - {path for path in paths if not path.is_dir()}


def images_in(folder: Path) -> list[Path]:
    """Return the images of a folder, sorted by name. Subfolders are not searched. Print what is skipped, and why.

    Raises:
        ValueError: no file has the suffix of an image.
    """
    known = picture_suffixes()
    entries = sorted(folder.iterdir())
    visible = [path for path in entries if not path.name.startswith(".")]  # "._a.jpg" are macOS's hidden files
    images = [path for path in visible if path.is_file() and path.suffix.lower() in known]
    others = [path for path in visible if path.is_file() and path.suffix.lower() not in known]
    heif = [path for path in others if path.suffix.lower() in HEIF_SUFFIXES]
    not_images = [path for path in others if path not in heif]
    folders = sum(path.is_dir() for path in visible)
    hidden = len(entries) - len(visible)
    notes = [
        (len(heif), "HEIC file", HEIF_ADVICE.format("it" if len(heif) == 1 else "them")),
        (len(not_images), "other file", f"unsupported type ({_suffixes_of(not_images)})"),
        (folders, "subfolder", "subfolders are not searched"),
        (hidden, "hidden file", "the name starts with a dot"),
    ]
    for count, name, reason in notes:
        if count:
            print(f"{folder}: skipped {count:,} {name}{'' if count == 1 else 's'}: {reason}", file=sys.stderr)
    if not images:
        raise ValueError(f"{folder} has no images; expected files such as a.jpg or b.png.")
    return images


def _suffixes_of(files: list[Path]) -> str:
    return listed(suffix or "no suffix" for suffix in Counter(path.suffix.lower() for path in files))


def unreadable_images(images: Iterable[Path], may_skip: Collection[Path]) -> list[Path]:
    """Open each image once. Return and report those in `may_skip` that cannot be opened.

    Raises:
        ValueError: an image that is not in `may_skip` cannot be opened.
    """
    unreadable = []
    for path in images:
        try:
            load_rgb(path)
        except ValueError as error:
            message = str(error)
            if path.is_file() and path.suffix.lower() in HEIF_SUFFIXES and HEIF not in Image.OPEN:
                message = f"{path}: HEIC images cannot be opened yet; {HEIF_ADVICE.format('it')}."
            if path not in may_skip:
                raise ValueError(message) from error
            print(f"skipped: {message}", file=sys.stderr)
            unreadable.append(path)
    return unreadable


# ----------------------------------------------------------------------------------------------------------------------
# Tables


def read_table(path: Path) -> list[tuple[Path, str]]:
    """Return (image, query) of each row of a CSV or JSONL file. Image paths are relative to its folder.

    Raises:
        ValueError: the table cannot be read, with the line.
    """
    if not path.is_file():
        raise ValueError(f"--table {path}: no such file.")
    pairs = []
    try:
        for number, row in _rows_of(path):
            values = [row.get(name) if isinstance(row, dict) else None for name in COLUMNS]
            if not all(isinstance(value, str) and value.strip() for value in values):
                raise ValueError(f"{path}, line {number}: must have a text in each of the columns image and query.")
            check_path(f"{path}, line {number}: image", values[0], "the path of a file")
            pairs.append((path.parent / values[0], values[1]))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8 ({error}); save it with this encoding.") from error
    if not pairs:
        raise ValueError(f"{path} has no rows.")
    return pairs


def _rows_of(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, row) of a CSV or JSONL file."""
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        raise ValueError(f"--table must be a .csv or .jsonl file, got {show(str(path))}.")
    with open(path, encoding="utf-8-sig", newline="") as file:
        if suffix == ".csv":
            delimiter = csv_delimiter(file.readline())
            file.seek(0)
            reader = csv.DictReader(file, delimiter=delimiter)
            try:
                for row in reader:
                    yield reader.line_num, row
            except csv.Error as error:
                raise ValueError(f"{path}, line {reader.line_num}: not valid CSV ({error}).") from error
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield number, parse_json(line)
                except ValueError as error:
                    raise ValueError(f"{path}, line {number}: not valid JSON ({error}).") from error
