"""Read mask images by their look: black and white, grey values, colors, palettes and transparency."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from gemma_lisa.images_gemma_lisa import open_image, open_upright, own_limit, pixel_limit

from .label_maps import INDEX_MODES

WHITE = 255
HALF = 128  # alpha of the object, and black and white divided
MAX_COLORS = 256
DARK = 64  # grey values below this are hardly visible, so they are class numbers
GREY_NOISE = 24  # largest difference of the channels of a grey JPEG
COLOR_NOISE = 3  # rounding of a color that fades to black
WITH_PAGES = (b"II*\0", b"MM\0*", b"GIF8", b"\x89PNG")  # starts of formats that can contain several images
DEEP_COLORS = (2, 4, 6)  # color types of PNG files with several channels
COLOR_MAP = (
    "For classes with colors, write labelmap.txt with a line `mug:255,0,0::` for each, and rename masks/ to "
    "SegmentationClass/."
)
ONE_OBJECT = "For a mask of one object, use the option text instead of class names."
ALPHA = "masks with transparency, where the opaque pixels are the object"
FADING = "masks with one color on black, where the color is the object"
WHITE_FIRST = "masks with the palette white, black, where white is the object"
PAGES = "mask files with several pages or frames, of which the first was read"
OTHER_ZERO = "palette masks whose number 0 is not black, where number 0 is the background"

Note = Callable[[str], None]  # counts a case of this kind


class MaskImage(NamedTuple):
    """A decoded mask, upright."""

    path: Path
    image: Image.Image
    is_lossy: bool  # compression changed its numbers
    is_deep: bool  # has 16 bits per color channel, of which Pillow reads 8
    num_pages: int = 1


class Levels(NamedTuple):
    """A mask of one object as numbers; 0 is the background."""

    values: np.ndarray  # (H, W), integers or floating point
    by_look: bool  # black and white or a color: the numbers have no meaning of their own


def read_mask_image(path: Path) -> MaskImage:
    """Return a mask image. Its content shows whether it is lossy, not its file name.

    Raises:
        ValueError: the file does not exist or cannot be read.
    """
    image = open_upright(path)
    with path.open("rb") as file:
        start = file.read(32)
    is_webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    is_lossy = start[:3] == b"\xff\xd8\xff" or (is_webp and start[12:16] != b"VP8L")
    is_lossy = is_lossy or start[4:8] in (b"ftyp", b"jP  ") or start[:4] == b"\xff\x4f\xff\x51"  # AVIF, HEIF, JPEG2000
    is_lossy = is_lossy or image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")
    is_png = start[1:4] == b"PNG"
    num_pages = _num_pages(path) if start.startswith(WITH_PAGES) else 1
    return MaskImage(path, image, is_lossy, is_png and start[24] == 16 and start[25] in DEEP_COLORS, num_pages)


def _num_pages(path: Path) -> int:
    with own_limit(pixel_limit()), path.open("rb") as file, open_image(file) as image:
        return getattr(image, "n_frames", 1)


def class_numbers(mask: MaskImage, note: Note) -> np.ndarray:
    """Return the class numbers (H, W) of a label map. Palettes give their indices.

    Raises:
        ValueError: the numbers are changed by compression, or the image has colors.
    """
    path, image = mask.path, mask.image
    if mask.num_pages > 1:
        note(PAGES)
    if mask.is_lossy:
        raise ValueError(
            f"{path}: its content is JPEG or another lossy format, which changes the numbers of a mask. Export it "
            f"again as PNG; converting the file is not enough. {ONE_OBJECT}"
        )
    if mask.is_deep:
        raise ValueError(f"{path}: has 16 bits per color channel; save it as a grayscale PNG of 8 or 16 bits.")
    if image.mode == "P":
        _check_greys(image, path)
        return _white_as_last(image, note)
    if image.mode == "F" and not (np.asarray(image) % 1).any():
        return np.asarray(image).astype(np.int32)
    if image.mode in INDEX_MODES or image.mode.startswith("I;16"):
        return np.asarray(image)
    if image.mode in ("RGB", "RGBA", "LA"):
        channels = np.asarray(image.convert("RGBA"))
        grey, alpha = channels[..., 0], channels[..., 3]
        is_grey = (grey == channels[..., 1]).all() and (grey == channels[..., 2]).all()
        if is_grey and (alpha.min() == alpha.max() or not grey[alpha < WHITE].any()):
            return np.ascontiguousarray(grey)
    raise ValueError(
        f"{path}: a mask of several classes must have one number per pixel, got an image in mode {image.mode} with "
        "colors or transparency. Save it as a grayscale or palette PNG whose numbers are named in classes.txt. "
        f"{COLOR_MAP} {ONE_OBJECT}"
    )


def object_levels(mask: MaskImage, note: Note) -> Levels:
    """Return a mask of one object as numbers, of which 0 is the background.

    Raises:
        ValueError: the image can be read in several ways, or has many colors.
    """
    path, image = mask.path, mask.image
    if mask.num_pages > 1:
        note(PAGES)
    if image.has_transparency_data and not image.mode.startswith("I"):
        alpha = image.convert("RGBA").getchannel("A")
        if len(set(alpha.getextrema())) > 1 and not _is_first_index_transparent(image, alpha):
            return Levels(_opaque(image, np.asarray(alpha), path, note), by_look=True)
    if image.mode == "1":
        return Levels(np.asarray(image).astype(np.uint8), by_look=True)
    if image.mode == "P":
        return _of_palette(image, path, note)
    if image.mode in ("L", "F") or image.mode.startswith("I"):
        return Levels(np.asarray(image), by_look=False)
    if image.mode == "LA":
        return Levels(np.asarray(image.getchannel("L")), by_look=False)
    if image.mode in ("RGB", "RGBA"):
        return _of_colors(image.convert("RGB"), mask, note)
    raise ValueError(
        f"{path}: a mask cannot have mode {image.mode}. A mask must be a grayscale, palette or RGB PNG file."
    )


def _opaque(image: Image.Image, alpha: np.ndarray, path: Path, note: Note) -> np.ndarray:
    """Return 255 for the opaque pixels of a cut-out object, otherwise 0."""
    visible = alpha >= HALF
    shown = np.asarray(image.convert("RGB"))[visible]
    if len(shown) and set(np.unique(shown)) == {0, WHITE} and (shown == shown[:, :1]).all():
        raise ValueError(
            f"{path}: has black and white pixels and also transparent pixels, so the object is either white or opaque. "
            "Save it without transparency, with the object in white and everything else in black."
        )
    note(ALPHA)
    return visible.astype(np.uint8) * WHITE


def _is_first_index_transparent(image: Image.Image, alpha: Image.Image) -> bool:
    """Return whether index 0 of a palette, and no other, is transparent: then the indices are the numbers."""
    return image.mode == "P" and np.array_equal(np.asarray(image) == 0, np.asarray(alpha) == 0)


def _palette(image: Image.Image) -> np.ndarray:
    """Return the colors of a palette (N, 3); (0, 3) if the file has none."""
    colors = image.getpalette("RGB") if image.palette is not None else None
    return np.array(colors or [], dtype=np.uint8).reshape(-1, 3)


def _is_black_or_white(colors: np.ndarray) -> bool:
    return bool(len(colors)) and bool(((colors == 0).all(axis=1) | (colors == WHITE).all(axis=1)).all())


def _check_greys(image: Image.Image, path: Path) -> None:
    """Raise an error if the colors of a palette look like the class numbers, but its indices differ from them."""
    colors, used = _palette(image), np.flatnonzero(image.histogram())
    if used[-1] >= len(colors) or (colors != colors[:, :1]).any():
        return
    greys = colors[used, 0]
    if greys.max() < DARK and len(set(greys.tolist())) == len(used) > 1 and not np.array_equal(greys, used):
        raise ValueError(
            f"{path}: the numbers of its pixels are {used.tolist()}, but the grey values of its palette are "
            f"{greys.tolist()}. Save it as a grayscale PNG with the class numbers."
        )


def _white_as_last(image: Image.Image, note: Note) -> np.ndarray:
    """Return the indices of a palette image, swapped if the palette is white, black."""
    indices, colors = np.asarray(image), _palette(image)
    used = np.flatnonzero(image.histogram())
    blacks = [index for index in used if index and index < len(colors) and not colors[index].any()]
    if not _is_black_or_white(colors) or not colors[0].all() or len(blacks) > 1 or set(used) - {0, *blacks}:
        return indices
    note(WHITE_FIRST)
    white = blacks[0] if blacks else 1
    return np.where(indices == 0, white, 0).astype(np.uint8)


def _of_palette(image: Image.Image, path: Path, note: Note) -> Levels:
    """Return a palette mask as numbers: grey values of grey palettes, otherwise the indices."""
    indices, colors = np.asarray(image), _palette(image)
    used = np.flatnonzero(image.histogram())
    if used[-1] >= len(colors):
        return Levels(indices, by_look=False)
    shown = colors[used]
    # Equal colors show nothing. In a mask with one number, the other colors of the palette count
    num_colors = len(np.unique(shown if len(used) > 1 else colors, axis=0))
    if num_colors < max(len(used), 2):
        return Levels(indices, by_look=False)
    if (colors == colors[:, :1]).all():
        is_black_and_white = _is_black_or_white(shown)
        if is_black_and_white and colors[0].all():
            note(WHITE_FIRST)
        is_plain = np.array_equal(shown[:, 0], used)
        return Levels(colors[:, 0][indices], by_look=is_black_and_white and not is_plain)
    if not colors[0].any():
        return Levels(indices, by_look=False)
    later = colors[used[used > 0]]
    has_black, has_white = not later.any(axis=1).all(), (later == WHITE).all(axis=1).any()
    if has_black or (has_white and not (colors[0] == WHITE).all()):
        raise ValueError(
            f"{path}: the background is either number 0 of its palette, which has the color {colors[0].tolist()}, or "
            f"the {'black' if has_black else 'white'} pixels, which have another number. Save it with the object in "
            "white on black."
        )
    note(OTHER_ZERO)
    return Levels(indices, by_look=False)


def _of_colors(image: Image.Image, mask: MaskImage, note: Note) -> Levels:
    channels = np.asarray(image)
    low, high = channels.min(axis=2), channels.max(axis=2)
    if int((high - low).max()) <= (GREY_NOISE if mask.is_lossy else 0):
        return Levels(np.asarray(image.convert("L")) if mask.is_lossy else high, by_look=False)
    colors = image.getcolors(MAX_COLORS)
    if not mask.is_lossy and (colors is None or any(color == (0, 0, 0) for _, color in colors)):
        brightest = channels[high >= HALF]
        if len(brightest):
            found, count = np.unique(brightest.reshape(-1, 3), axis=0, return_counts=True)
            main = found[count.argmax()].astype(np.float32)
            share = high.astype(np.float32) / main.max()
            if all(np.abs(channels[..., c] - share * main[c]).max() <= COLOR_NOISE for c in range(3)):
                note(FADING)
                return Levels(np.clip(np.rint(share * WHITE), 0, WHITE).astype(np.uint8), by_look=True)
        elif colors is not None and len(colors) == 2:
            note(FADING)
            return Levels((high > 0).astype(np.uint8) * WHITE, by_look=True)
    how_many = f"{len(colors)} colors" if colors is not None and not mask.is_lossy else "many colors"
    raise ValueError(
        f"{mask.path}: an RGB mask of one object must have one color on black, got {how_many}. Save it with the object "
        f"in white on black, or save a grayscale or palette PNG with one number for each class. {COLOR_MAP}"
    )
