"""A folder of PNG masks named by question.

    masks/reason_seg/val/1#0.png          the question reason_seg/val/1#0
    masks/reason_seg%2Fval%2F1%230.png    the same in one folder, with the id as in a URL
    masks/1.png                           the same, if the source of no other row ends in 1
    masks/reason_seg/val/1#0/0.png        the first of several masks of this question
    masks/reason_seg/val/1#0/1.png        the second

Pixels are 0 outside the mask and any other single value inside. With the values 1 to K, there are K masks. A file of
zeros says that nothing is in the image. A mask has the size of the upright image. It can have 1 to 16 bits per pixel, a
palette (whose indices count), or three equal channels.

Files whose names begin with a full stop are ignored. Other files that are not PNG are an error.
"""

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from PIL import Image

from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.images_gemma_lisa import open_upright
from gemma_lisa.safety.short_text import name_of, show

from .entries import Entry

SUFFIX = ".png"
MAX_MASKS = 255  # masks in one file; more values are a photo or a probability map
_COLORS = {"RGB": 3, "RGBA": 4, "LA": 2}


def read_mask_folder(folder: Path, is_known: Callable[[str], bool]) -> list[Entry]:
    """Return an entry per question. The files are read, so that a damaged one is an error.

    Args:
        folder: of the files.
        is_known: whether a name is that of a question.

    Raises:
        ValueError: a file is not a mask.
    """
    entries: dict[str, Entry] = {}
    for path in mask_files(folder):
        name, is_part = _name_of(path.relative_to(folder), is_known)
        size, masks = read_masks(path)
        if is_part and name in entries and entries[name].where != str(path.parent):
            raise ValueError(f"{path}: {entries[name].where} has masks of the same question; remove one of them.")
        if is_part:
            entry = entries.setdefault(name, Entry(str(path.parent), name, [], [], size=size))
            if entry.size != size:
                raise ValueError(f"{path}: its size is {size} (height, width), but other masks have {entry.size}.")
            entry.masks.extend(masks)
        elif name in entries:
            raise ValueError(f"{path}: {entries[name].where} has masks of the same question; remove one of them.")
        else:
            entries[name] = Entry(f"{path}", name, masks, [], size=size)
    return list(entries.values())


def mask_files(folder: Path) -> list[Path]:
    """Return the PNG files of a folder and its subfolders, those of one folder in the order of their numbers.

    Raises:
        ValueError: there is another file, or a link that is not one to a file.
    """
    found = []
    for path in folder.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.is_symlink() and not path.is_file():
            raise ValueError(f"{path}: a link to a folder, or a broken link, is not supported; replace or remove it.")
        if path.is_file():
            if path.suffix.lower() != SUFFIX:
                raise ValueError(f"{path}: a folder of predictions must contain PNG masks only; remove this file.")
            found.append(path)
    return sorted(found, key=lambda path: (path.parent, _by_number(path.stem)))


def read_masks(path: Path) -> tuple[tuple[int, int], list[dict]]:
    """Return the size (height, width) in pixels of a PNG file, and its masks as RLE.

    Raises:
        ValueError: it cannot be read, or its values are not those of masks.
    """
    values = _values_of(open_upright(path, str(path)), path)
    found = np.flatnonzero(np.bincount(values.ravel()))
    found = found[found > 0].tolist()
    if len(found) > 1 and (found != list(range(1, len(found) + 1)) or len(found) > MAX_MASKS):
        raise ValueError(
            f"{path}: the pixels have the values {show(found)}; a mask must have 0 and one other value, or 0 and the "
            "numbers of the masks from 1."
        )
    return values.shape, [encode_mask(values == value) for value in found]


def _values_of(image: Image.Image, path: Path) -> np.ndarray:
    """Return the values (H, W) of a mask."""
    values = np.asarray(image)
    if image.mode in _COLORS:
        if image.mode != "RGB" and (values[..., -1] != values[..., -1].max()).any():
            raise ValueError(f"{path}: the mask is partly transparent; save it in greyscale.")
        colors = values[..., : 3 if image.mode != "LA" else 1]
        if (colors != colors[..., :1]).any():
            raise ValueError(f"{path}: the mask has colors; save it in greyscale, with 0 outside the mask.")
        values = colors[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "bui" or values.min(initial=0) < 0:
        raise ValueError(f"{path}: the mask has the mode {image.mode}; save it in greyscale.")
    return values.astype(np.uint8) if values.dtype == bool else values


def _name_of(path: Path, is_known: Callable[[str], bool]) -> tuple[str, bool]:
    """Return what names the question of a file, and whether the file is one of several masks of its folder."""
    whole = path.with_suffix("").as_posix()
    for name in (whole, unquote(whole)):
        if is_known(name):
            return name, False
    folder = path.parent.as_posix()
    for name in (folder, unquote(folder)):
        if folder != "." and is_known(name):
            return name, True
    return whole, False


def _by_number(stem: str) -> list[tuple[int, str]]:
    """Return the key that sorts names by the numbers in them: 2 before 10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name_of(stem, 300)) if part
    ]
