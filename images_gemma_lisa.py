"""Open image files as upright RGB. The Hub code, the data sets and the programs all open images with this file.

docs/images.md describes how each file format is read.
"""

import contextlib
import functools
import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:  # torch takes seconds to import, and programs that only open images do not need it
    import torch

# Mask value of the ignore region: pixels that are neither object nor background.
IGNORE_VALUE = 255
MAX_IMAGE_PIXELS = 100_000_000  # 400 MB in Pillow's memory; a photo of 8000 × 6000 has 48 million
MAX_IMAGE_PIXELS_VARIABLE = "GEMMA_LISA_MAX_IMAGE_PIXELS"  # environment variable that overrides MAX_IMAGE_PIXELS
# Formats that Pillow decodes in this process from the bytes of the file. EPS and WMF call other programs; IPTC, FPX and
# MIC can contain a file of any format. HEIF needs a plugin.
FORMATS = "JPEG MPO PNG GIF WEBP TIFF BMP DIB PPM JPEG2000 AVIF HEIF ICO PSD".split()
_WHITE = 255


class ThreadLock:
    """A lock between the threads of a process. It is free in a forked child, where its owner does not exist."""

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
    """An image has more pixels than the limit."""


# Pillow's pixel limit and Python's warning filters are global, so only one thread at a time can change them.
_pillow_globals = ThreadLock()
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis")  # ISO/IEC 23008-12
# EXIF 2.32, orientation: 1 is upright, 9 and above are not defined. From 5, width and height are exchanged.
_ROTATED, _TURNED = range(2, 9), range(5, 9)
_JPEG = {"JPEG", "MPO"}
# Further frames of MPO are a gain map or a preview, those of PSD are layers. They are not pages.
_NO_PAGES = {"MPO", "PSD"}
# TIFF 6.0, section 8
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


def load_rgb(
    image: Image.Image | str | os.PathLike | bytes, name: str | None = None, limit: int | None = None, factor: int = 1
) -> Image.Image:
    """Return an image as upright RGB with 8 bits per channel, opened with `open_upright`.

    Transparent images are composited on white. 16-bit greyscale is converted to 8 bits by its high byte, as Pillow
    does for 16-bit RGB.

    Args:
        image, name, limit, factor: as in `open_upright`. A PIL image that is already upright RGB is returned without a
            copy.

    Raises:
        ValueError: as `open_upright`; a mode without a defined value range (32-bit integers, floating point).
    """
    name = name or name_of_image(image)
    upright = open_upright(image, name, limit, factor)
    if upright.mode == "F" or (upright.mode == "I" and upright.format != "PPM"):
        raise ValueError(
            f"{name} has mode {upright.mode}, which has no defined value range. Save it with 8 bits per channel, or as "
            "16-bit greyscale (0 to 65535)."
        )
    with _name_image_in_errors(name, image):
        return _to_rgb(upright)


def open_upright(
    image: Image.Image | str | os.PathLike | bytes, name: str | None = None, limit: int | None = None, factor: int = 1
) -> Image.Image:
    """Return the decoded first frame of an image in its own mode, rotated according to its EXIF orientation.

    Palette indices are not converted.

    Args:
        image: path or content of a file, or a PIL image, whose current frame is used and which is not changed.
        name: name of the image in errors and warnings (default: its path).
        limit: maximum number of pixels (default: `pixel_limit()`).
        factor: 2, 4 or 8 decodes a JPEG file at its sizes divided by the factor, rounded up. No effect otherwise.

    Raises:
        ValueError: the file does not exist or cannot be read.
        TooManyPixels: more pixels than the limit. This is checked before the pixels are decoded.
    """
    name = name or name_of_image(image)
    limit = limit or pixel_limit()
    _check_given(image, name)
    with _name_image_in_errors(name, image, limit), own_limit(limit) as caught:
        upright, is_more = _decode(image, limit, factor)
    for warning in caught:
        if issubclass(warning.category, UserWarning):  # Pillow warns about damage that it tolerates
            _warn_once(f"{name} was read with a warning from Pillow: {' '.join(str(warning.message).split())}")
    if is_more:
        _warn_once(f"{name} is animated or has several pages. Only the first is used.")
    return upright


def stored_jpeg_size(image: str | os.PathLike | bytes, name: str, limit: int | None = None) -> tuple[int, int] | None:
    """Return the upright (width, height) in pixels from the header of a JPEG file, or None for other formats.

    Args:
        image: path or content of a file.
        name, limit: as in `open_upright`.

    Raises:
        ValueError, TooManyPixels: as `open_upright`, but only for the header.
    """
    limit = limit or pixel_limit()
    _check_given(image, name)
    with _name_image_in_errors(name, image, limit), own_limit(limit), _open_file(image) as opened:
        if opened.format not in _JPEG:
            return None
        is_turned = opened.getexif().get(ExifTags.Base.Orientation) in _TURNED
        return opened.size[::-1] if is_turned else opened.size


def _check_given(image: Image.Image | str | os.PathLike | bytes, name: str) -> None:
    if isinstance(image, str | os.PathLike):
        if not os.path.isfile(image):
            raise ValueError(f"{name} does not exist or is not a file. Download it or correct the path.")
    elif not isinstance(image, bytes | Image.Image):
        raise ValueError(
            f"{name} must be a PIL image, the path of an image file or its bytes, got {type(image).__name__}."
        )


def open_image(file: BinaryIO) -> ImageFile.ImageFile:
    """Open an image file as `PIL.Image.open` does (not decoded yet) if its content has one of the `FORMATS`.

    Only this function of the project opens image files. It ignores the name of the file.

    Args:
        file: file opened in binary mode. The caller closes it.

    Raises:
        UnidentifiedImageError: the content has none of the `FORMATS`.
    """
    Image.init()  # registers the formats that Pillow imports lazily
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def _decode(image: Image.Image | str | os.PathLike | bytes, limit: int, factor: int) -> tuple[Image.Image, bool]:
    """Return the upright image, and whether it is the first of several frames."""
    if isinstance(image, Image.Image):
        if isinstance(image, ImageFile.ImageFile) and type(image).format not in FORMATS:
            raise UnidentifiedImageError  # before load(), which may start a program
        if image.width * image.height > limit:
            raise Image.DecompressionBombError
        return _rotate_upright(image)
    with _open_file(image) as opened:
        if factor > 1:
            opened.draft(None, (opened.width // factor, opened.height // factor))
        return _rotate_upright(opened)


@contextlib.contextmanager
def _open_file(image: str | os.PathLike | bytes) -> Iterator[ImageFile.ImageFile]:
    # opened here because Pillow leaves a file open that it cannot read
    with io.BytesIO(image) if isinstance(image, bytes) else open(image, "rb") as file, open_image(file) as opened:
        yield opened


def _rotate_upright(image: Image.Image) -> tuple[Image.Image, bool]:
    # only formats with several frames have this attribute
    is_more = getattr(image, "is_animated", False) and image.format not in _NO_PAGES and image.tell() == 0
    image.load()  # first, because a PNG can have its EXIF data after its pixels
    if image.getexif().get(ExifTags.Base.Orientation) in _ROTATED:
        return ImageOps.exif_transpose(image), is_more
    return image.copy() if is_more else image, is_more  # a copy has one frame, so there is no second warning


def check_palette(image: Image.Image) -> None:
    """Raise ValueError if a decoded image has palette indices, but its file has no palette."""
    if image.mode in ("P", "PA") and image.palette is None:
        raise ValueError("its palette is missing")


def _to_rgb(upright: Image.Image) -> Image.Image:
    check_palette(upright)
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        return _from_sixteen_bits(upright).convert("RGB")
    if not upright.has_transparency_data:
        return upright if upright.mode == "RGB" else upright.convert("RGB")
    if upright.mode == "La":
        upright = upright.convert("LA")  # Pillow cannot convert this mode directly
    rgba = upright if upright.mode == "RGBA" else upright.convert("RGBA")
    background = Image.new("RGB", upright.size, (_WHITE, _WHITE, _WHITE))
    background.paste(rgba, mask=rgba)
    return background


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    tags = image.tag_v2 if image.format == "TIFF" else {}
    values = np.asarray(image)
    grey = (values >> (tags.get(_BITS_PER_SAMPLE, (16,))[0] - 8)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow inverts 8-bit images, but not 16-bit images
        grey = _WHITE - grey
    if "transparency" in image.info:  # the grey value that a PNG declares transparent
        grey[values == image.info["transparency"]] = _WHITE
    return Image.fromarray(grey)


@contextlib.contextmanager
def _name_image_in_errors(
    name: str, image: Image.Image | str | os.PathLike | bytes, limit: int | None = None
) -> Iterator[None]:
    """Convert every exception of Pillow to a ValueError of one line that names the image."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(
            f"{name} has more than {limit:,} pixels. Make it smaller, or raise the limit with the environment variable "
            f"{MAX_IMAGE_PIXELS_VARIABLE} (about 16 bytes of memory per pixel)."
        ) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} cannot be read ({why_unreadable(error, image)}).") from error
    except Exception as error:  # for damaged files, Pillow's decoders raise many different classes
        reason = why_unreadable(error, image)
        raise ValueError(f"{name} cannot be read ({reason}). Download it again or remove it.") from error


def why_unreadable(error: Exception, image: Image.Image | str | os.PathLike | bytes) -> str:
    """Return the reason why an image cannot be read: Pillow's error as one line of at most 200 characters."""
    if isinstance(error, UnidentifiedImageError):
        return _describe_unsupported(image)
    return (" ".join(str(error).split()) or f"the file is damaged: {type(error).__name__} in Pillow")[:200]


@contextlib.contextmanager
def own_limit(limit: int) -> Iterator[list[warnings.WarningMessage]]:
    """Make Pillow refuse images with more pixels than the limit, and collect its warnings in the returned list.

    A file can contain an image that is larger than its declared size, so Pillow's own limit must be set.
    """
    with _pillow_globals, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limit
        try:
            yield caught
        finally:
            Image.MAX_IMAGE_PIXELS = before


class PixelNormalization:
    """Rescale and normalize pixels on any device, with results bit-identical to a stock image processor.

    Args:
        image_processor: processor with the options of rescaling and normalization.

    Attributes:
        values: (3, 256) float32, the processor's results for 0 to 255 in each channel.
        steps: (3, 3) float32, rows divisor d, mean m and std s per channel. (x / d - m) / s in float32 gives `values`
            and is faster than indexing. None if it does not give exactly these values.
    """

    def __init__(self, image_processor):
        import torch

        pixels = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)  # an image of one row
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

    def __call__(self, pixels: "torch.Tensor") -> "torch.FloatTensor":
        """Return pixels (I, 3, H, W) uint8 as normalized values (I, 3, H, W) float32."""
        if self.steps is None:
            import torch

            channels = torch.arange(3, device=pixels.device)[:, None, None]
            return self.values.to(pixels.device)[channels, pixels.int()]
        divisor, mean, std = self.steps.to(pixels.device)[..., None, None]  # (3, 1, 1) each
        return pixels.float().div_(divisor).sub_(mean).div_(std)


def write_pixels(rgb: Image.Image, target: np.ndarray) -> None:
    """Write the pixels of an image to target (3, H, W) uint8, which has the size of the image."""
    for band, plane in zip(rgb.getbands(), target, strict=True):
        plane[...] = np.frombuffer(rgb.tobytes("raw", band), dtype=np.uint8).reshape(plane.shape)


def blank_padding(images: "torch.Tensor", sizes: "torch.LongTensor") -> None:
    """Set images (I, 3, H, W) to 0 outside their sizes (I, 2), (height, width) in pixels."""
    import torch

    rows, columns = (
        torch.arange(length, device=images.device) < sizes[:, axis, None].to(images.device)
        for axis, length in enumerate(images.shape[-2:])
    )  # (I, H), (I, W)
    images.masked_fill_(~(rows[:, None, :, None] & columns[:, None, None, :]), 0)


def pixel_limit() -> int:
    """Return the maximum number of pixels of an image: the environment variable, or the default."""
    text = os.environ.get(MAX_IMAGE_PIXELS_VARIABLE, str(MAX_IMAGE_PIXELS))
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(
            f"The environment variable {MAX_IMAGE_PIXELS_VARIABLE} must be a positive number of pixels, got {text!r}. "
            "Correct or unset it."
        )
    return int(text)


def name_of_image(image: Image.Image | str | os.PathLike | bytes) -> str:
    path = getattr(image, "filename", "") if isinstance(image, Image.Image) else image  # empty if opened from memory
    return " ".join(str(path)[:200].splitlines()) if isinstance(path, str | os.PathLike) and path else "the image"


def _describe_unsupported(image: Image.Image | str | os.PathLike | bytes) -> str:
    """Describe a file that has none of the `FORMATS`, and how to fix it."""
    if isinstance(image, Image.Image):
        return f"the format {image.format} is not supported; save it as PNG or JPEG"
    if isinstance(image, bytes):
        start = image[:1000]
    else:
        with open(image, "rb") as file:
            start = file.read(1000)
    if not start:
        return "the file is empty; download it again or remove it"
    if b"<svg" in start or b"%!PS" in start:
        return "it is a vector graphic, SVG or PostScript; save it as PNG"
    if start[4:8] == b"ftyp" and any(start[at : at + 4] in _HEIC_BRANDS for at in range(8, 64, 4)):
        return "it is HEIC, which needs pillow-heif, see docs/images.md; save it as JPEG or PNG"
    return "its image format is not supported; save it as PNG or JPEG"


@functools.lru_cache(maxsize=10_000)  # limited, because warnings contain names of files
def _warn_once(warning: str) -> None:
    _logger.warning(warning)


def images_of_rows(input_ids: "torch.LongTensor", image_token_id: int) -> tuple["torch.LongTensor", "torch.BoolTensor"]:
    """Return, for each conversation (B, L), the index of its image, (B,), and whether it has an image, (B,)."""
    has_image = (input_ids == image_token_id).any(dim=1)
    return has_image.long().cumsum(0) - 1, has_image
