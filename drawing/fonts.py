"""The font of what is written into pictures: Pillow's own, which has ASCII, or one of the machine's that has more."""

import logging
from contextlib import suppress
from functools import cache
from pathlib import Path

from PIL import ImageFont

logger = logging.getLogger(__name__)

NO_LETTER = "\U0010ffff"  # in no font: drawn as what stands for a missing one
# Words in the names of files
PREFERRED, AVOIDED = ("Sans", "Gothic", "CJK"), ("Bold", "Italic", "Oblique", "Light", "Thin", "Mono", "Condensed")


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that has every letter of the text; where the machine has none, Pillow's, and it is said once.

    Args:
        text: what is to be written.
        size: in pixels.
    """
    missing = "".join(sorted({letter for letter in text if not _is_built_in(letter)}))
    return _opened(_find(missing) if missing else None, size)


def width_of(text: str, size: int) -> float:
    """How many pixels a line of text takes in its font."""
    return font_for(text, size).getlength(text)


@cache
def _opened(path: str | None, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)


@cache
def _is_built_in(letter: str) -> bool:
    font = ImageFont.load_default(20)
    return letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask(NO_LETTER))


@cache
def _find(letters: str) -> str | None:
    """The file of a font that has all the letters."""
    from matplotlib import font_manager, get_data_path  # only other letters than the built-in font's need it

    # Not font_manager's own list, which is of the day when it was first used; and matplotlib brings one font everywhere
    paths = [*font_manager.findSystemFonts(), str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))]
    wanted = {ord(letter) for letter in letters}
    for path in sorted(paths, key=_rank):
        with suppress(RuntimeError):  # no font in that file
            if wanted <= font_manager.get_font(path).get_charmap().keys():
                return path
    logger.warning(
        "No font of this machine has %s; pictures show boxes instead. Install one (fonts-noto-cjk).", letters
    )
    return None


def _rank(path: str) -> tuple:
    """Fonts without serifs, upright and of normal weight first."""
    name = Path(path).stem
    return *(word not in name for word in PREFERRED), any(word in name for word in AVOIDED), name
