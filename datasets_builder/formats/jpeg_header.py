"""The size of a photo, read off its header where it is a plain JPEG, else by Pillow.

Pillow takes 4.5 times as long for a plain JPEG, 166 against 37 µs CPU (medians of 9 turns over 200 photos). That is
15 s more for COCO's 118,287 photos, whose first start takes 59 s.
Measured by `python benchmarks/bench_data.py --case headers --output FOLDER` at 242a778, 2026-11-28, 2-core CPU.

A photo that was cut off has a header too. So its last bytes are looked at: a JPEG that does not end as one is decoded,
for some cameras write more behind it, and others stopped in between.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags

from gemma_lisa.images_gemma_lisa import check_palette, open_image, own_limit, pixel_limit, why_unreadable

# ITU-T T.81, table B.1
_START, _END, _SCAN, _APP1 = b"\xff\xd8", b"\xff\xd9", 0xDA, 0xE1
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; others are seldom
_PREFIX = 0xFF


def stored_size(path: Path, where: str) -> tuple[tuple[int, int], int | None]:
    """(height, width) in pixels of a photo as stored, and its EXIF orientation if it has one.

    The pixels are decoded only where the photo may have been cut off, and of pictures that are no JPEG. where: names
    in errors what the photo belongs to.

    Raises:
        ValueError: a file that is no picture, or a damaged one.
    """
    try:
        size = plain_size(path)
        if size is not None and size[0] * size[1] <= pixel_limit():
            return size, None
        return size_by_pillow(path)
    except Exception as error:  # on a damaged file Pillow's decoders raise a dozen different classes
        reason = why_unreadable(error, path)
        raise ValueError(f"{where}: the image {path} cannot be read ({reason}); replace it or take it out.") from error


def size_by_pillow(path: Path) -> tuple[tuple[int, int], int | None]:
    """As `stored_size`, for any picture; errors are those of Pillow."""
    with own_limit(pixel_limit()), path.open("rb") as file, open_image(file) as image:
        if image.format not in ("JPEG", "MPO") or not _ends_whole(image.fp):
            image.load()  # PNG may hold its EXIF behind the pixels, TIFF sets itself upright on the way
            check_palette(image)
        return (image.height, image.width), image.getexif().get(ExifTags.Base.Orientation)


def plain_size(path: Path) -> tuple[int, int] | None:
    """(height, width) in pixels, as stored, of a whole JPEG that says nothing of its orientation.

    None: it may say something (EXIF and XMP are in APP1), it is no JPEG, or not as a JPEG usually is, or it does not
    end as one; let Pillow judge.
    """
    size = None
    with path.open("rb") as file:
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


def _ends_whole(file: BinaryIO) -> bool:
    """Whether the last bytes of a JPEG are those that end one; the file stands where it stood."""
    place = file.tell()
    file.seek(-len(_END), os.SEEK_END)
    end = file.read()
    file.seek(place)
    return end == _END
