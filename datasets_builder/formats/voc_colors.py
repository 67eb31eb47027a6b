"""Read the masks and class lists of Pascal VOC: class numbers or colors, named by labelmap.txt or classes.txt.

labelmap.txt has a line `name:r,g,b:parts:actions` for each class. The class numbers are their order from 0.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemma_lisa.datasets_builder.custom.folder_classes import CountedNames, clean, read_classes
from gemma_lisa.datasets_builder.custom.folder_tables import CLASS_FILES
from gemma_lisa.images_gemma_lisa import open_upright
from gemma_lisa.safety.short_text import count_of, listed, show

from .annotated import IGNORED, Notes
from .folder_listing import read_text
from .label_maps import INDEX_MODES

LABEL_MAP = "labelmap.txt"
LABEL_LINE = re.compile(
    r"(?P<name>.*?)\s*:\s*(?P<color>\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3})\s*(:.*)?|(?P<plain>[^:]*?)\s*:\s*:.*"
)
LONGEST_LINE = 2_000  # characters
BACKGROUND = ("background", "unlabeled", "unlabelled", "none")
UNCLEAR = ("ignored", "ignore", "void", IGNORED.replace("_", ""))  # the border of an object, and unclear regions
VOID_NUMBER = 255
VOC_NAMES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()
STANDARD_NAMES = "masks without a class list; their colors are those of Pascal VOC, whose 20 class names were used"


def _voc_colors() -> list[int]:
    """Return the 256 colors of VOC's palette as 0xRRGGBB: the bits of the index, distributed to red, green and blue."""
    colors = []
    for index in range(256):
        red, green, blue = (
            sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)
        )
        colors.append(red << 16 | green << 8 | blue)
    return colors


VOC_COLORS = _voc_colors()
VOC_NUMBERS = {color: number for number, color in enumerate(VOC_COLORS)}
VOID_COLOR = VOC_COLORS[VOID_NUMBER]  # 224, 224, 192


class Raster(NamedTuple):
    """Pixels of a mask file."""

    path: Path
    values: np.ndarray  # (H, W) unsigned integers: numbers, or colors 0xRRGGBB
    is_color: bool
    palette: list[int] | None  # colors of the numbers, if the file has a palette

    def color_of(self, value: int) -> int | None:
        """Return the color of a number, or None without a palette."""
        if self.is_color:
            return value
        return self.palette[value] if self.palette and value < len(self.palette) else None

    def order_of(self, value: int) -> int:
        """Return the order of a value: numbers by size, and colors as in VOC's palette."""
        return VOC_NUMBERS.get(value, len(VOC_COLORS) + value) if self.is_color else value


def read_raster(path: Path) -> Raster:
    """Return the pixels of a mask file. Transparency is ignored.

    Raises:
        ValueError: the file cannot be read, or has neither numbers nor colors.
    """
    picture = open_upright(path)
    if picture.mode in ("LA", "PA"):
        return Raster(path, np.asarray(picture.getchannel(0)), False, None)
    if picture.mode in ("RGB", "RGBA", "RGBX"):
        values = np.zeros(picture.size[::-1], dtype=np.uint32)
        for channel in range(3):
            values = values << 8 | np.asarray(picture.getchannel(channel))
        return Raster(path, values, True, None)
    if picture.mode not in INDEX_MODES:
        raise ValueError(f"{path}: a mask must have numbers or colors, got mode {picture.mode}; save it as PNG.")
    palette = picture.getpalette("RGB") if picture.mode == "P" and picture.palette else None
    if palette:
        palette = [red << 16 | green << 8 | blue for red, green, blue in np.reshape(palette, (-1, 3)).tolist()]
    values = np.asarray(picture)
    if values.dtype.kind != "u":
        values = values.astype(np.uint32)
    return Raster(path, values, False, palette)


class ClassList(NamedTuple):
    """Names of the classes. None in place of a name is the background."""

    file: Path
    by_number: dict[int, str | None]
    by_color: dict[int, str | None]
    counted: CountedNames | None = None  # the names of a list without numbers, until `decide_numbers`


def find_classes(folders: Iterable[Path]) -> ClassList | None:
    """Return the class list in the first folder that has one, or None.

    Raises:
        ValueError: a class list is not valid.
    """
    for folder in folders:
        for name in (LABEL_MAP, *CLASS_FILES):
            if (folder / name).is_file():
                return _read_label_map(folder / name) if name == LABEL_MAP else _numbered(folder / name)
    return None


def _numbered(file: Path) -> ClassList:
    listed_names = read_classes(file)
    names = {0: None, **{number: _meaning(name) for number, name in listed_names.items()}}
    colors = {VOC_COLORS[number]: name for number, name in names.items() if 0 <= number < VOID_NUMBER}
    return ClassList(file, names, colors, listed_names if isinstance(listed_names, CountedNames) else None)


def decide_numbers(classes: ClassList | None, masks: Iterable[Path]) -> None:
    """Check that a list of names without numbers counts from 1: a mask contains the number of the last name.

    Raises:
        ValueError: no mask contains it, so the list can also count from 0.
    """
    if classes is None or classes.counted is None or len(classes.counted) == 1:
        return
    for file in masks:
        try:
            raster = read_raster(file)
        except ValueError:
            continue  # raised again by its photo
        values = np.unique(raster.values).tolist()
        numbers = [VOC_NUMBERS.get(value, 0) for value in values] if raster.is_color else values
        if any(len(classes.counted) <= number != VOID_NUMBER for number in numbers):
            return
    raise classes.counted.ambiguous()


def _read_label_map(file: Path) -> ClassList:
    by_number, by_color, lines = {}, {}, {}
    for place, text in enumerate(read_text(file).splitlines(), start=1):
        line = text.strip()
        if not line or line.startswith("#"):
            continue
        match = LABEL_LINE.fullmatch(line) if len(line) <= LONGEST_LINE else None
        name = (match["name"] or match["plain"] or "").strip() if match else ""
        if not name:
            raise ValueError(f"{file} line {place}: {show(line)} is not `name:r,g,b::`; write one line for each class.")
        number = len(by_number)
        if match["color"]:
            red, green, blue = (int(part) for part in match["color"].split(","))
            if max(red, green, blue) > VOID_NUMBER:
                raise ValueError(f"{file} line {place}: a color has numbers from 0 to 255, got {match['color']}.")
            color = red << 16 | green << 8 | blue
        else:
            color = VOC_COLORS[number % len(VOC_COLORS)]
        if color in by_color:
            raise ValueError(
                f"{file} line {place}: line {lines[color]} has the same color {_text_of(color)}; each class needs its "
                "own color."
            )
        by_number[number] = by_color[color] = _meaning(name)
        lines[color] = place
    if not by_number:
        raise ValueError(f"{file}: there are no classes; write one line `name:r,g,b::` for each.")
    return ClassList(file, by_number, by_color)


def _meaning(name: str) -> str | None:
    """Return the class name, IGNORED for a name of unclear regions, or None for the background."""
    plain = clean(name).lower()
    if plain in BACKGROUND:
        return None
    return IGNORED if plain in UNCLEAR else name


def class_names_of(raster: Raster, values: list[int], classes: ClassList | None, notes: Notes) -> dict[int, str | None]:
    """Return the class of each pixel value: a name, IGNORED, or None for the background.

    Args:
        raster: the mask.
        values: that occur in it.
        classes: the class list, or None to use the names of Pascal VOC if the colors are VOC's.
        notes: counts masks that are named by VOC's names.

    Raises:
        ValueError: a value has no name.
    """
    colors = {value: raster.color_of(value) for value in values}
    if classes is None:
        return _standard_names(raster, colors, notes)
    named = {value: _by_color(classes, color) for value, color in colors.items() if color is not None}
    if raster.is_color or (len(named) == len(values) and _all_known(named)):
        return _checked(raster, named, classes)
    greys = {value: classes.by_color.get(value * 0x010101, "") for value in values}
    if raster.palette is None and _all_known(greys):
        return greys
    numbered = {value: classes.by_number.get(value, IGNORED if value == VOID_NUMBER else "") for value in values}
    return _checked(raster, numbered, classes)


def _by_color(classes: ClassList, color: int) -> str | None:
    """Return the class of a color; "" if it is unknown."""
    if color in classes.by_color:
        return classes.by_color[color]
    return {VOID_COLOR: IGNORED, 0: None}.get(color, "")


def _all_known(named: dict[int, str | None]) -> bool:
    return "" not in named.values()


def _checked(raster: Raster, named: dict[int, str | None], classes: ClassList) -> dict[int, str | None]:
    unknown = [value for value, name in named.items() if name == ""]
    if unknown:
        kind = ("color", "colors") if raster.is_color else ("number", "numbers")
        shown = "; ".join(_text_of(value) if raster.is_color else str(value) for value in unknown[:3])
        raise ValueError(
            f"{raster.path}: {count_of(len(unknown), *kind)} of its pixels, such as {shown}, "
            f"{'is' if len(unknown) == 1 else 'are'} not in {classes.file.name} "
            f"({listed(name for name in classes.by_number.values() if name)}); add the class there, or save the mask "
            "without smooth edges as PNG."
        )
    return named


def _standard_names(raster: Raster, colors: dict[int, int | None], notes: Notes) -> dict[int, str | None]:
    names = {}
    for value, color in sorted(colors.items(), key=lambda item: item[0] == 0):  # 0 is the worst example in an error
        number = VOC_NUMBERS.get(color)
        if color is None or number is None or (not raster.is_color and number != value):
            raise _nameless(raster, value)
        if number == VOID_NUMBER:
            names[value] = IGNORED
        elif number < len(VOC_NAMES):
            names[value] = VOC_NAMES[number] if number else None
        else:
            raise _nameless(raster, value)
    if set(names.values()) - {None, IGNORED}:
        notes.add(STANDARD_NAMES, str(raster.path))
    return names


def _nameless(raster: Raster, value: int) -> ValueError:
    kind = f"color {_text_of(value)}" if raster.is_color else f"number {value}"
    return ValueError(
        f"{raster.path}: there is no class list, and the {kind} is not one of the 20 classes of Pascal VOC; add "
        "labelmap.txt with a line `name:r,g,b::` for each class, or classes.txt with a line `1: name` for each number."
    )


def _text_of(color: int) -> str:
    return f"{color >> 16},{color >> 8 & 0xFF},{color & 0xFF}"
