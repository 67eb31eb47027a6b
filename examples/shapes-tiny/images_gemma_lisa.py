"""Any picture as upright RGB: the one rule by which images are opened, on the Hub, in the data sets, by the programs.

docs/images.md says what is assumed of each kind of file.
"""

import contextlib
import functools
import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

MAX_IMAGE_PIXELS = 100_000_000  # 400 MB in Pillow's memory; a photo of 8000 × 6000 has 48 million
MAX_IMAGE_PIXELS_VARIABLE = "GEMMA_LISA_MAX_IMAGE_PIXELS"  # of the environment: another limit
# Pillow decodes these in this process, from the bytes of the file alone. It draws EPS with Ghostscript, and WMF with
# Windows; a file of IPTC, FPX or MIC holds a file of any other format. HEIF is there once a plugin has registered it.
FORMATS = "JPEG MPO PNG GIF WEBP TIFF BMP DIB PPM JPEG2000 AVIF HEIF ICO PSD".split()
_WHITE = 255


class ThreadLock:
    """A lock between the threads of one process. A forked child gets it free: the thread that held it is not there."""

    def __init__(self):
        self._renew()
        if os.name == "posix":
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error) -> None:
        self._lock.release()


_logger = logging.getLogger(__name__)


class TooManyPixels(ValueError):
    """An image that has more pixels than the limit."""


# Pillow's limit and Python's filter of warnings are global: one thread at a time may change them.
_pillow_globals = ThreadLock()
_TURNED = range(2, 9)  # EXIF 2.32, orientation: 1 is upright, 9 and more are not defined
# Their further frames are the gain map or the preview of a photo, and the layers whose sum is the picture.
_NO_PAGES = {"MPO", "PSD"}
# TIFF 6.0, section 8
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


def load_rgb(
    image: Image.Image | str | os.PathLike | bytes, name: str | None = None, limit: int | None = None
) -> Image.Image:
    """An image as upright RGB, 8 bits a channel, as `open_upright` opens it.

    What is transparent is laid on white; 16-bit greyscale is brought from 0..65535 to 0..255 by its high byte, the way
    Pillow reads 16-bit RGB.

    Args:
        image, name, limit: as in `open_upright`. A picture that is upright RGB already comes back itself, uncopied.

    Raises:
        ValueError: as `open_upright`; a mode whose range is not agreed on (32-bit integers, floating point).
    """
    name = name or _name_of(image)
    upright = open_upright(image, name, limit)
    if upright.mode == "F" or (upright.mode == "I" and upright.format != "PPM"):
        raise ValueError(
            f"{name} is of mode {upright.mode}, whose range is not agreed on; save it with 8 bits a channel, or as "
            "16-bit greyscale over 0 to 65535."
        )
    with _naming(name, image):
        return _to_rgb(upright)


def open_upright(
    image: Image.Image | str | os.PathLike | bytes, name: str | None = None, limit: int | None = None
) -> Image.Image:
    """An image in its own mode, decoded, its first frame, turned the way its EXIF orientation says.

    Palette indices stay as they are.

    Args:
        image: a file's path or content, or a picture, which is taken at the frame it stands at and is not changed.
        name: what errors and warnings call it; by default the path.
        limit: maximum number of pixels; by default `pixel_limit()`.

    Raises:
        ValueError: no such file, or none that can be read.
        TooManyPixels: more pixels than the limit, which is looked at before the pixels are decoded.
    """
    name = name or _name_of(image)
    limit = limit or pixel_limit()
    if isinstance(image, str | os.PathLike):
        if not os.path.isfile(image):
            raise ValueError(f"{name} does not exist or is no file; download it or correct the path.")
    elif not isinstance(image, bytes | Image.Image):
        raise ValueError(f"{name} is no image; give a PIL image, the path of a file or its bytes.")
    with _naming(name, image, limit), own_limit(limit) as remarks:
        upright, is_more = _decode(image, limit)
    for remark in remarks:
        if issubclass(remark.category, UserWarning):  # Pillow's, of damage that it read over
            _say_once(f"{name} was read, but Pillow says: {' '.join(str(remark.message).split())}")
    if is_more:
        _say_once(f"{name} is animated or has several pages; the first is used.")
    return upright


def open_image(file: BinaryIO) -> ImageFile.ImageFile:
    """Open an image file as `PIL.Image.open` does, not decoded yet, if its content is in one of `FORMATS`.

    This is the only place of the project that opens image files. The name of the file is never looked at.

    Args:
        file: opened for reading bytes. The caller closes it.

    Raises:
        UnidentifiedImageError: the content is in no format of `FORMATS`.
    """
    Image.init()  # registers the formats that Pillow would import late
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def _decode(image: Image.Image | str | os.PathLike | bytes, limit: int) -> tuple[Image.Image, bool]:
    """The upright picture, and whether it is the first of several."""
    if isinstance(image, Image.Image):
        if isinstance(image, ImageFile.ImageFile) and type(image).format not in FORMATS:
            raise UnidentifiedImageError  # before load(), which may start a program
        if image.width * image.height > limit:
            raise Image.DecompressionBombError
        return _turned(image)
    # opened here and not by Pillow, which leaves the file open when it cannot read it
    with io.BytesIO(image) if isinstance(image, bytes) else open(image, "rb") as file, open_image(file) as opened:
        return _turned(opened)


def _turned(image: Image.Image) -> tuple[Image.Image, bool]:
    # of the formats that can hold several only: other pictures have no such attribute
    is_more = getattr(image, "is_animated", False) and image.format not in _NO_PAGES and image.tell() == 0
    image.load()  # first, for a PNG may have its EXIF behind its pixels
    if image.getexif().get(ExifTags.Base.Orientation) in _TURNED:
        return ImageOps.exif_transpose(image), is_more
    return image.copy() if is_more else image, is_more  # a copy holds one frame, and is not warned of again


def check_palette(image: Image.Image) -> None:
    """Raise ValueError for a decoded picture of palette indices whose file holds no palette."""
    if image.mode in ("P", "PA") and image.palette is None:
        raise ValueError("its palette is missing")


def _to_rgb(upright: Image.Image) -> Image.Image:
    check_palette(upright)
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        return _from_sixteen_bits(upright).convert("RGB")
    if not upright.has_transparency_data:
        return upright if upright.mode == "RGB" else upright.convert("RGB")
    if upright.mode == "La":
        upright = upright.convert("LA")  # Pillow knows no other way out of this mode
    seen = upright if upright.mode == "RGBA" else upright.convert("RGBA")
    paper = Image.new("RGB", upright.size, (_WHITE, _WHITE, _WHITE))
    paper.paste(seen, mask=seen)
    return paper


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    tags = image.tag_v2 if image.format == "TIFF" else {}
    deep = np.asarray(image)
    grey = (deep >> (tags.get(_BITS_PER_SAMPLE, (16,))[0] - 8)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow turns it round at 8 bits, but not at 16
        grey = _WHITE - grey
    if "transparency" in image.info:  # the grey that a PNG declares transparent
        grey[deep == image.info["transparency"]] = _WHITE
    return Image.fromarray(grey)


@contextlib.contextmanager
def _naming(name: str, image: Image.Image | str | os.PathLike | bytes, limit: int | None = None) -> Iterator[None]:
    """Whatever Pillow raises inside becomes a ValueError of one line that names the image."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(
            f"{name} has more than {limit:,} pixels; make it smaller, or set {MAX_IMAGE_PIXELS_VARIABLE} to what the "
            "memory allows (about 16 bytes a pixel)."
        ) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} cannot be read ({why_unreadable(error, image)}).") from error
    except Exception as error:  # on a damaged file Pillow's decoders raise a dozen different classes
        reason = why_unreadable(error, image)
        raise ValueError(f"{name} cannot be read ({reason}); download it again or take it out.") from error


def why_unreadable(error: Exception, image: Image.Image | str | os.PathLike | bytes) -> str:
    """What Pillow's error says of an image, in at most 200 characters of one line."""
    if isinstance(error, UnidentifiedImageError):
        return _what_else(image)
    return (" ".join(str(error).split()) or f"the file is damaged: {type(error).__name__} in Pillow")[:200]


@contextlib.contextmanager
def own_limit(limit: int) -> Iterator[list[warnings.WarningMessage]]:
    """Inside, Pillow refuses what has more pixels than the limit, and its warnings go to the list given.

    A file may hide a picture larger than the size it declares, so the limit must be Pillow's own.
    """
    with _pillow_globals, warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limit
        try:
            yield remarks
        finally:
            Image.MAX_IMAGE_PIXELS = before


class PixelNormalization:
    """What a stock image processor makes of pixels, bit for bit, on any device.

    Args:
        image_processor: that rescales and normalizes, as it is told to.

    values: (3, 256) float32, of 0 to 255 in each channel, as the processor itself makes them.
    steps: (3, 3) float32, rows d, m and s by channel, with which the values are (0…255 / d - m) / s in float32: quicker
    than to look them up; none if these are other values.
    """

    def __init__(self, image_processor):
        pixels = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)  # a picture of one row
        values = pixels.numpy()
        scale, mean, std = 1, 0, 1
        if image_processor.do_rescale:
            scale = image_processor.rescale_factor
            values = image_processor.rescale(values, scale)
        if image_processor.do_normalize:
            mean, std = image_processor.image_mean, image_processor.image_std
            values = image_processor.normalize(values, mean, std)
        self.values = torch.tensor(values[:, 0], dtype=torch.float32)  # (3, 256)
        self.steps = torch.stack([torch.tensor(step, dtype=torch.float32).expand(3) for step in (1 / scale, mean, std)])
        if not torch.equal(self(pixels[None])[0, :, 0], self.values):
            self.steps = None

    def __call__(self, pixels: torch.Tensor) -> torch.FloatTensor:
        """Values (I, 3, H, W) float32 of pixels (I, 3, H, W) uint8."""
        if self.steps is None:
            channels = torch.arange(3, device=pixels.device)[:, None, None]
            return self.values.to(pixels.device)[channels, pixels.int()]
        divisor, mean, std = self.steps.to(pixels.device)[..., None, None]  # (3, 1, 1) each
        return pixels.float().div_(divisor).sub_(mean).div_(std)


def write_pixels(rgb: Image.Image, target: np.ndarray) -> None:
    """The picture's pixels into target (3, H, W) uint8, of the picture's size."""
    for band, plane in zip(rgb.split(), target, strict=True):
        plane[...] = np.asarray(band)


def blank_padding(images: torch.Tensor, sizes: torch.LongTensor) -> None:
    """0 wherever images (I, 3, H, W) lie outside their sizes (I, 2), (height, width) in pixels."""
    rows, columns = (
        torch.arange(length, device=images.device) < sizes[:, axis, None].to(images.device)
        for axis, length in enumerate(images.shape[-2:])
    )  # (I, H), (I, W)
    images.masked_fill_(~(rows[:, None, :, None] & columns[:, None, None, :]), 0)


def pixel_limit() -> int:
    """The most pixels a picture may have: the default, or what the environment says."""
    text = os.environ.get(MAX_IMAGE_PIXELS_VARIABLE, str(MAX_IMAGE_PIXELS))
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{MAX_IMAGE_PIXELS_VARIABLE} is {text!r}; set it to a number of pixels, or not at all.")
    return int(text)


def _name_of(image: Image.Image | str | os.PathLike | bytes) -> str:
    path = getattr(image, "filename", "") if isinstance(image, Image.Image) else image  # empty, if opened from memory
    return " ".join(str(path)[:200].splitlines()) if isinstance(path, str | os.PathLike) and path else "the image"


def _what_else(image: Image.Image | str | os.PathLike | bytes) -> str:
    """What a file is that is in none of `FORMATS`, and what to do."""
    if isinstance(image, Image.Image):
        return f"pictures of the format {image.format} are not supported; save it as PNG or JPEG"
    if isinstance(image, bytes):
        start = image[:1000]
    else:
        with open(image, "rb") as file:
            start = file.read(1000)
    if not start:
        return "the file is empty; download it again or take it out"
    if b"<svg" in start or b"%!PS" in start:
        return "it is a drawing, SVG or PostScript, which has no pixels; save it as PNG"
    return "it is in no format of pictures that is supported; save it as PNG or JPEG"


@functools.lru_cache(maxsize=10_000)  # what is said of files from outside has no end
def _say_once(warning: str) -> None:
    _logger.warning(warning)


def images_of_rows(input_ids: torch.LongTensor, image_token_id: int) -> tuple[torch.LongTensor, torch.BoolTensor]:
    """Return for each conversation (B, L) the index of its image, (B,), and whether it shows one at all, (B,)."""
    has_image = (input_ids == image_token_id).any(dim=1)
    return has_image.long().cumsum(0) - 1, has_image
