"""Masks inside annotation files are decoded and placed on their photo."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.formats.mask_pictures import (
    check_place,
    check_size,
    decode_base64,
    placed,
    png_pixels,
    png_size,
)
from gemma_lisa.datasets_builder.rows import decode_mask

SIZE = (6, 8)  # height, width


def png(picture, **options):
    content = io.BytesIO()
    picture.save(content, "PNG", **options)
    return content.getvalue()


@pytest.mark.parametrize(
    ("mode", "with_alpha", "expected"),
    [("L", False, [[0, 1], [1, 0]]), ("L", True, [[0, 1], [1, 0]]), ("LA", True, [[1, 0], [1, 0]])],
)
def test_a_mask_is_its_numbers_or_its_opaque_pixels(mode, with_alpha, expected):
    picture = Image.fromarray(np.array([[0, 7], [255, 0]], dtype=np.uint8))
    if mode == "LA":
        picture.putalpha(Image.fromarray(np.array([[1, 0], [255, 0]], dtype=np.uint8)))
    content = decode_base64(base64.b64encode(png(picture)).decode(), "a")
    assert png_size(content, "a") == (2, 2)
    assert png_pixels(content, "a", with_alpha).tolist() == expected


def test_a_palette_with_a_transparent_color_is_a_mask():
    picture = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8))
    picture.putpalette([0, 0, 0, 255, 255, 255])
    assert png_pixels(png(picture, transparency=0), "a", with_alpha=True).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("left", "top"), [(0, 0), (3, 2), (-1, -2), (6, 4), (7, 5), (-2, 0), (8, 0), (-9, -9), (20, 0)]
)
def test_pixels_beyond_the_image_are_cut_off(left, top):
    pixels = np.array([[1, 0], [1, 1], [0, 1]], dtype=bool)
    expected = np.zeros(SIZE, dtype=np.uint8)
    for y, x in np.argwhere(pixels):
        if 0 <= y + top < SIZE[0] and 0 <= x + left < SIZE[1]:
            expected[y + top, x + left] = 1
    assert np.array_equal(decode_mask(placed(pixels, left, top, SIZE), ""), expected)


def test_errors_are_one_line(monkeypatch):
    for content in (None, 7, "?", "AAA"):
        with pytest.raises(ValueError, match="^a: the mask is not a PNG in base64"):
            decode_base64(content, "a")
    with pytest.raises(ValueError, match="^a: the mask is not a PNG in base64"):
        png_size(b"GIF89a", "a")
    with pytest.raises(ValueError, match="^a: the mask must have one number per pixel, got an image in mode RGB"):
        png_pixels(png(Image.new("RGB", (2, 2))), "a")
    check_place((2, 2), 6, 5, SIZE, "a")
    for left, top in ((9, 0), (-3, 0), (0, 7), (0, -3), (float("inf"), 0)):
        with pytest.raises(ValueError, match="^a: the mask extends beyond the image, which is 8 x 6 pixels"):
            check_place((2, 2), left, top, SIZE, "a")
    monkeypatch.setenv("GEMMA_LISA_MAX_IMAGE_PIXELS", "47")
    with pytest.raises(ValueError, match="^a: the size of its image is 8 x 6 pixels .* maximum of 47 pixels"):
        check_size(SIZE, "a")
