"""Copies of photos: names, formats and orientation."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from gemma_lisa.datasets_builder.writers.photo_copies import copy_photo, unique_stems
from gemma_lisa.images_gemma_lisa import load_rgb


def draw(path, orientation=None, form=None):
    """Write a photo of smooth colors, which JPEG changes little, and return the path."""
    rows, columns = np.mgrid[:24, :36]
    pixels = np.stack([rows * 10, columns * 7, rows * 5 + columns * 3], axis=-1).astype(np.uint8)
    exif = Image.Exif()
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(path, format=form, exif=exif)
    return path


@pytest.mark.parametrize("name", ["a.jpg", "a.JPG", "a.png", "a.bmp", "a.webp"])
@pytest.mark.parametrize("is_upright", [False, True])
def test_photos_of_common_formats_are_copied_byte_by_byte(tmp_path, name, is_upright):
    source, folder = draw(tmp_path / name), tmp_path / "copies"
    folder.mkdir()
    assert copy_photo(source, folder, "b", is_upright) == f"b{source.suffix}"
    assert (folder / f"b{source.suffix}").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_photo_is_stored_upright_if_the_format_needs_it(tmp_path, name, orientation):
    source, folder = draw(tmp_path / name, orientation), tmp_path / "copies"
    folder.mkdir()
    upright = copy_photo(source, folder, "upright", True)
    assert upright == ("upright.jpg" if name == "a.jpg" else "upright.png")
    with Image.open(folder / upright) as stored:
        assert ExifTags.Base.Orientation not in stored.getexif()
        pixels = np.asarray(stored.convert("RGB"), dtype=int)
    difference = np.abs(pixels - np.asarray(load_rgb(source), dtype=int))
    assert difference.max() <= (12 if name == "a.jpg" else 0)
    same = copy_photo(source, folder, "same", False)
    assert (folder / same).read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.ppm"])
def test_other_formats_become_png(tmp_path, name):
    source = draw(tmp_path / name)
    assert copy_photo(source, tmp_path, "b", False) == "b.png"
    assert (np.asarray(Image.open(tmp_path / "b.png")) == np.asarray(load_rgb(source))).all()


def test_a_wrong_suffix_is_replaced(tmp_path):
    source = draw(tmp_path / "a.png", form="JPEG")
    assert copy_photo(source, tmp_path, "b", False) == "b.jpg"


def test_equal_names_get_a_number_also_if_only_their_case_or_suffix_differs():
    paths = [Path("x/mug.jpg"), Path("y/mug.jpg"), Path("y/Mug.png"), Path("mug-2.jpg"), Path("lid.jpg")]
    assert list(unique_stems(paths).values()) == ["mug", "mug-2", "Mug-3", "mug-2-2", "lid"]


def test_characters_that_break_file_lists_are_replaced():
    names = ["a:b*.jpg", ".hidden.png", "a\nb.png", "two words.png", "日本語.png", f"{'é' * 200}.png"]
    stems = list(unique_stems([Path("x") / name for name in names]).values())
    assert stems[:5] == ["a_b_", "_hidden", "a_b", "two words", "日本語"]
    assert len(stems[5].encode()) <= 183
    assert unique_stems([Path("two words.png")], without_spaces=True) == {Path("two words.png"): "two_words"}
