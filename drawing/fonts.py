"""Choose the font for text in pictures: Pillow's built-in font (ASCII only), or a system font with more letters."""

import logging
from contextlib import suppress
from functools import cache
from pathlib import Path

from PIL import ImageFont

logger = logging.getLogger(__name__)

NO_LETTER = "\U0010ffff"  # no font has it, so it is drawn as the sign for a missing letter
# Words in file names of fonts
PREFERRED, AVOIDED = ("Sans", "Gothic", "CJK"), ("Bold", "Italic", "Oblique", "Light", "Thin", "Mono", "Condensed")


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a font that has every letter of the text. If none is installed, warn once and return Pillow's font.

    Args:
        text: the text to draw.
        size: font size in pixels.
    """
    missing = "".join(sorted({letter for letter in text if not _is_built_in(letter)}))
    return _opened(_find(missing) if missing else None, size)


def width_of(text: str, size: int) -> float:
    """Return the width in pixels of a line of text."""
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
    """Return the path of a font that has all the letters, or None."""
    from matplotlib import font_manager, get_data_path  # slow to import; only needed for letters beyond ASCII

    # Not font_manager's own list: it is cached and can be outdated. Matplotlib always ships DejaVu Sans
    paths = [*font_manager.findSystemFonts(), str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))]
    wanted = {ord(letter) for letter in letters}
    for path in sorted(paths, key=_rank):
        with suppress(RuntimeError):  # the file holds no font
            if wanted <= font_manager.get_font(path).get_charmap().keys():
                return path
    logger.warning(
        "No installed font has the letters %s; pictures show boxes instead. Install a font such as fonts-noto-cjk.",
        letters,
    )
    return None


def _rank(path: str) -> tuple:
    """Return the sort key of a font: sans-serif, upright fonts of normal weight come first."""
    name = Path(path).stem
    return *(word not in name for word in PREFERRED), any(word in name for word in AVOIDED), name
