"""Read the size of a photo: from the header of a plain JPEG, otherwise with Pillow.

For a plain JPEG, Pillow takes 4.5 times as long: 166 instead of 37 µs CPU (medians of 9 runs with 200 photos). For
COCO's 118,287 photos that is 15 s of the 59 s of the first start.
Measured by `python benchmarks/bench_data.py --case headers --output FOLDER` at 242a778, 2026-11-28, 2-core CPU.

A truncated photo also has a header, so the last bytes are checked. A JPEG without an end marker is decoded: it can be
truncated, or a camera appended data to it.
"""

import io
import os
import struct
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags

from gemma_lisa.images_gemma_lisa import check_palette, open_image, own_limit, pixel_limit, why_unreadable

# ITU-T T.81, table B.1
_START, _END, _SCAN, _APP1 = b"\xff\xd8", b"\xff\xd9", 0xDA, 0xE1
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; others are rare
_PREFIX = 0xFF


def stored_size(photo: Path | bytes, where: str) -> tuple[tuple[int, int], int | None]:
    """Return (height, width) in pixels of a photo as stored, and its EXIF orientation or None.

    The pixels are decoded only if the photo can be truncated or is not a JPEG.

    Args:
        photo: path of the file, or its content.
        where: names the record of the photo in errors.

    Raises:
        ValueError: the file is damaged or not an image.
    """
    try:
        size = plain_size(photo)
        if size is not None and size[0] * size[1] <= pixel_limit():
            return size, None
        return size_by_pillow(photo)
    except Exception as error:  # Pillow's decoders raise many classes of errors on damaged files
        name = "the image" if isinstance(photo, bytes) else f"the image {photo}"
        reason = why_unreadable(error, photo)
        raise ValueError(f"{where}: {name} cannot be read ({reason}); replace or remove it.") from error


def size_by_pillow(photo: Path | bytes) -> tuple[tuple[int, int], int | None]:
    """Return the same as `stored_size`, for any image format. Errors are those of Pillow."""
    with own_limit(pixel_limit()), _opened(photo) as file, open_image(file) as image:
        if image.format not in ("JPEG", "MPO") or not _ends_whole(image.fp):
            image.load()  # PNG can have EXIF after the pixels; TIFF applies its orientation while loading
            check_palette(image)
        return (image.height, image.width), image.getexif().get(ExifTags.Base.Orientation)


def plain_size(photo: Path | bytes) -> tuple[int, int] | None:
    """Return (height, width) in pixels, as stored, of a complete JPEG without an orientation.

    Returns None if Pillow must read the file. It can have an orientation (EXIF and XMP are in APP1), has no end marker,
    or is not a common JPEG.
    """
    size = None
    with _opened(photo) as file:
        if file.read(2) != _START:
            return None
        while len(head := file.read(4)) == 4:
            prefix, marker, length = struct.unpack(">BBH", head)
            if prefix != _PREFIX or marker == _APP1 or length < 2:
                return None
            if marker == _SCAN:
                return size if _ends_whole(file) else None
            content = file.read(length - 2)
            if len(content) < length - 2:
                return None
            if marker in _FRAMES:
                if size is not None or length < 8:
                    return None
                bits, height, width, num_channels = struct.unpack(">BHHB", content[:6])
                if bits != 8 or num_channels not in (1, 3, 4) or not height or not width:
                    return None
                size = (height, width)
    return None


def _opened(photo: Path | bytes) -> BinaryIO:
    return io.BytesIO(photo) if isinstance(photo, bytes) else photo.open("rb")


def _ends_whole(file: BinaryIO) -> bool:
    """Return whether a JPEG ends with the end marker. The position in the file does not change."""
    place = file.tell()
    file.seek(-len(_END), os.SEEK_END)
    end = file.read()
    file.seek(place)
    return end == _END
