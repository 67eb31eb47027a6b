"""Copy photos into a data set for labelling tools: as they are, or as a file that every tool opens in the same way."""

import os
import shutil
import unicodedata
from pathlib import Path

from PIL import ExifTags

from gemma_lisa.images_gemma_lisa import load_rgb, open_image, own_limit, pixel_limit

# Formats that browsers and labelling tools open, with their suffixes. The first suffix replaces a wrong one
COPIED = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
}
JPEGS = ("JPEG", "MPO")
JPEG_QUALITY = 95
MAX_STEM = 180  # bytes; file systems allow 255 with the suffix
UNSAFE = set('\\/:*?"<>|')  # in file names on Windows, and in lists of file names
ROTATED = range(2, 9)  # EXIF 2.32, orientation: 1 is upright, 9 and above are not defined


def unique_stems(paths: list[Path], without_spaces: bool = False) -> dict[Path, str]:
    """Return a file name without suffix for each photo. Equal names get a number: "mug", "mug-2".

    Args:
        paths: of the photos, each once.
        without_spaces: replace spaces, for formats that list names separated by spaces.
    """
    stems, taken = {}, set()
    for path in paths:
        wanted = unicodedata.normalize("NFC", os.fsencode(path.stem)[:MAX_STEM].decode("utf-8", "replace"))
        wanted = "".join("_" if char in UNSAFE or not char.isprintable() else char for char in wanted)
        if wanted.startswith("."):
            wanted = f"_{wanted[1:]}"  # hidden files are not read
        if without_spaces:
            wanted = wanted.replace(" ", "_")
        stem, number = wanted, 1
        while stem.casefold() in taken:
            number += 1
            stem = f"{wanted}-{number}"
        taken.add(stem.casefold())
        stems[path] = stem
    return stems


def copy_photo(source: Path, folder: Path, stem: str, is_upright: bool) -> str:
    """Copy a photo into a folder and return its file name.

    JPEG, PNG, BMP and WebP are copied byte by byte. Other formats become PNG, upright.

    Args:
        source: path of the photo, which is not changed.
        folder: existing folder.
        stem: its name without a suffix.
        is_upright: store a photo with an EXIF orientation upright: a JPEG as a JPEG of quality 95, others as PNG.

    Raises:
        ValueError: the photo cannot be read.
        OSError: the copy cannot be written.
    """
    form, is_turned, profile = _facts(source)
    suffixes = COPIED.get(form, COPIED["PNG"])
    if form in COPIED and not (is_turned and is_upright):
        name = stem + (source.suffix if source.suffix.lower() in suffixes else suffixes[0])
        shutil.copyfile(source, folder / name)
        return name
    options = {"quality": JPEG_QUALITY, "subsampling": 0}
    if form not in JPEGS:
        form, suffixes, options = "PNG", COPIED["PNG"], {}
    name = stem + (source.suffix if source.suffix.lower() in suffixes else suffixes[0])
    image = load_rgb(source)
    image.save(folder / name, format="JPEG" if form in JPEGS else form, icc_profile=profile, **options)
    return name


def _facts(source: Path) -> tuple[str, bool, bytes | None]:
    """Return the format of a photo, whether it has an EXIF orientation to apply, and its RGB color profile."""
    with own_limit(pixel_limit()), source.open("rb") as file, open_image(file) as image:
        if image.format == "PNG":
            image.load()  # a PNG can have its EXIF data after its pixels
        is_turned = image.getexif().get(ExifTags.Base.Orientation) in ROTATED
        return image.format, is_turned, image.info.get("icc_profile") if image.mode == "RGB" else None
