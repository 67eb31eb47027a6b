"""LazyImage: an image file that is decoded when its pixels are needed, and at a reduced size for the encoders."""

import functools
import os
from typing import Any

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from .images_gemma_lisa import load_rgb, name_of_image, stored_jpeg_size

# Factors at which libjpeg decodes directly, the largest first
JPEG_FACTORS = (8, 4, 2)
# An image that is decoded at a reduced size has at least this many pixels for each pixel of the encoders' images.
REDUCED_MARGIN = 1.5


class LazyImage:
    """An image that is opened with `load_rgb` when its pixels are needed.

    The size of a JPEG file is read from its header. Other files are decoded for it, because a PNG can have its EXIF
    orientation after its pixels.

    Args:
        image: path or content of a file, or a PIL image.
        name: name of the image in errors and warnings (default: its path).
        limit: maximum number of pixels (default: `pixel_limit()`).
    """

    def __init__(
        self, image: Image.Image | str | os.PathLike | bytes, name: str | None = None, limit: int | None = None
    ):
        self.name, self.limit = name or name_of_image(image), limit
        self.image = _undecoded_content(image) or image

    @property
    def size(self) -> tuple[int, int]:
        """The (width, height) in pixels of the whole upright image.

        Raises:
            ValueError: as `load_rgb`. For a JPEG file, only errors in its header.
        """
        return self._jpeg_size or self.load().size

    @property
    def width(self) -> int:
        return self.size[0]

    @property
    def height(self) -> int:
        return self.size[1]

    def load(self) -> Image.Image:
        """Return the whole image as upright RGB. It is decoded once.

        Raises:
            ValueError: as `load_rgb`.
        """
        return self._whole

    def load_for(self, sizes: list[tuple[int, int]]) -> Image.Image:
        """Return the image as upright RGB, decoded at the reduced size that is enough to resize it to `sizes`.

        Only large JPEG files are reduced, see `reduction_factor`. After Pillow's bilinear resizing, the result differs
        from that of the whole image by at most 16 of 255 levels in photos, 0.8 on average. In stripes a few pixels
        wide, which resizing blurs, it is at most 36, 16 on average.

        Args:
            sizes: (width, height) in pixels of each image that is made from it.

        Raises:
            ValueError: as `load_rgb`.
        """
        factor = 1 if self._jpeg_size is None else reduction_factor(self._jpeg_size, sizes)
        return self.load() if factor == 1 else load_rgb(self.image, self.name, self.limit, factor)

    @functools.cached_property
    def _jpeg_size(self) -> tuple[int, int] | None:
        """The upright size of a JPEG file, or None."""
        return None if isinstance(self.image, Image.Image) else stored_jpeg_size(self.image, self.name, self.limit)

    @functools.cached_property
    def _whole(self) -> Image.Image:
        return load_rgb(self.image, self.name, self.limit)


def as_lazy(image: Image.Image | str | os.PathLike | bytes | LazyImage) -> LazyImage:
    """Return an image as LazyImage. A LazyImage is returned unchanged."""
    return image if is_lazy(image) else LazyImage(image)


def is_lazy(image: Any) -> bool:
    """Return whether an image is a LazyImage, also of the copy of this file that a checkpoint contains."""
    return isinstance(image, LazyImage) or hasattr(image, LazyImage.load_for.__name__)


def reduction_factor(size: tuple[int, int], sizes: list[tuple[int, int]]) -> int:
    """Return the largest of JPEG_FACTORS that leaves REDUCED_MARGIN times the width and height of all sizes, or 1.

    Args:
        size: (width, height) in pixels of the image.
        sizes: (width, height) in pixels of the images that are made from it.
    """
    for factor in JPEG_FACTORS:
        if all(
            side // factor >= REDUCED_MARGIN * wanted
            for wanted_size in sizes
            for side, wanted in zip(size, wanted_size, strict=True)
        ):
            return factor
    return 1


def _undecoded_content(image: Image.Image | str | os.PathLike | bytes) -> bytes | None:
    """Return the file of a PIL image that is a JPEG and not decoded yet, or None. The image is not changed."""
    if not isinstance(image, JpegImageFile) or not image.tile or image.decoderconfig or image.tell():
        return None  # decoded, already reduced by the caller, or a later frame
    position = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(position)
    return content
