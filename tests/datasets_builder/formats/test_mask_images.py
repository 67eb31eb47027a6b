"""Masks are read by their look: palettes, colors, transparency, and lossy files with any name."""

import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.formats.mask_images import (
    ALPHA,
    FADING,
    OTHER_ZERO,
    PAGES,
    WHITE_FIRST,
    class_numbers,
    object_levels,
    read_mask_image,
)

BLACK, WHITE, RED, GREY = (0, 0, 0), (255, 255, 255), (200, 0, 40), (128, 128, 128)
SHAPE = np.zeros((6, 8), dtype=np.uint8)
SHAPE[1:4, 2:6] = 1


def palette_image(colors, indices=SHAPE):
    picture = Image.fromarray(indices).convert("P")
    picture.putpalette([channel for color in colors for channel in color])
    return picture


def rgb(background, thing):
    return Image.fromarray(np.where(SHAPE[..., None] > 0, np.uint8(thing), np.uint8(background)))


def levels_of(tmp_path, picture, name="1.png", **options):
    """Return the numbers of a mask of one object and the kinds of notes."""
    picture.save(tmp_path / name, **options)
    kinds = Counter()
    levels = object_levels(read_mask_image(tmp_path / name), lambda kind: kinds.update([kind]))
    return levels.values, dict(kinds)


def numbers_of(tmp_path, picture, name="1.png", **options):
    picture.save(tmp_path / name, **options)
    kinds = Counter()
    return class_numbers(read_mask_image(tmp_path / name), lambda kind: kinds.update([kind])), dict(kinds)


@pytest.mark.parametrize("name", ["1.jpg", "1.png", "1.tif", "1.webp"])
def test_the_content_shows_whether_a_mask_is_lossy(tmp_path, name):
    picture = Image.fromarray(SHAPE * 255)
    for format_, options, is_lossy in (
        ("JPEG", {}, True),
        ("PNG", {}, False),
        ("WEBP", {"lossless": True}, False),
        ("WEBP", {}, True),
        ("TIFF", {"compression": "jpeg"}, True),
        ("TIFF", {}, False),
    ):
        picture.convert("RGB").save(tmp_path / name, format_, **options)
        assert read_mask_image(tmp_path / name).is_lossy is is_lossy, (format_, options)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L"])
def test_equal_channels_are_grey_and_opaque_alpha_is_dropped(tmp_path, mode):
    picture = Image.fromarray(SHAPE * 255).convert(mode)
    assert np.array_equal(levels_of(tmp_path, picture)[0], SHAPE * 255)
    assert levels_of(tmp_path, picture)[1] == {}
    assert np.array_equal(numbers_of(tmp_path, Image.fromarray(SHAPE * 3).convert(mode))[0], SHAPE * 3)


def test_white_is_1_in_a_black_and_white_image(tmp_path):
    picture = Image.fromarray(SHAPE.astype(bool))
    assert picture.mode == "1" and np.array_equal(levels_of(tmp_path, picture)[0], SHAPE)


def test_the_opaque_pixels_of_a_cut_out_object_are_the_object(tmp_path):
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    alpha = np.where(SHAPE > 0, 255, 0).astype(np.uint8)
    alpha[0, 0], alpha[0, 1] = 127, 128
    expected = (SHAPE > 0) | (np.indices(SHAPE.shape) == [[[0]], [[1]]]).all(axis=0)
    cut_out = Image.fromarray(np.dstack([colors, alpha]))
    black = Image.fromarray(np.dstack([colors * 0, alpha]))
    for picture in (cut_out, black, black.convert("LA")):
        values, kinds = levels_of(tmp_path, picture)
        assert np.array_equal(values > 0, expected) and kinds == {ALPHA: 1}


def test_black_and_white_with_transparent_pixels_is_refused(tmp_path):
    alpha = np.full(SHAPE.shape, 255, dtype=np.uint8)
    alpha[5] = 0
    picture = Image.fromarray(np.dstack([SHAPE * 255, SHAPE * 255, SHAPE * 255, alpha]))
    with pytest.raises(ValueError, match="1.png: .* the object is either white or opaque"):
        levels_of(tmp_path, picture)


@pytest.mark.parametrize("color", [RED, (0, 255, 0), (0, 0, 90), (1, 1, 200)])
def test_one_color_on_black_is_the_object(tmp_path, color):
    values, kinds = levels_of(tmp_path, rgb(BLACK, color))
    assert np.array_equal(values, SHAPE * 255) and kinds == {FADING: 1}


def test_a_color_that_fades_to_black_keeps_its_share(tmp_path):
    share = np.tile(np.linspace(0, 1, 8), (6, 1))
    share[:, 5:] = 1
    picture = Image.fromarray(np.rint(share[..., None] * [200, 100, 0]).astype(np.uint8))
    assert np.abs(levels_of(tmp_path, picture)[0] - share * 255).max() <= 2


def test_other_colors_are_refused(tmp_path):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8))
    three = np.asarray(rgb(BLACK, RED)).copy()
    three[5] = (0, 255, 0)
    for picture in (rgb(WHITE, RED), photo, Image.fromarray(three)):
        with pytest.raises(ValueError, match=r"1.png: an RGB mask of one object must have one color on black, got \w+"):
            levels_of(tmp_path, picture)
    with pytest.raises(ValueError, match="one color on black, got many colors"):
        levels_of(tmp_path, rgb(BLACK, RED), "1.png", format="JPEG")
    with pytest.raises(ValueError, match="a mask cannot have mode CMYK"):
        levels_of(tmp_path, rgb(BLACK, RED).convert("CMYK"), "1.tif")


@pytest.mark.parametrize(
    ("colors", "expected", "kinds"),
    [
        ([BLACK, WHITE], SHAPE * 255, {}),
        ([WHITE, BLACK], (1 - SHAPE) * 255, {WHITE_FIRST: 1}),
        ([WHITE, BLACK, BLACK, BLACK], (1 - SHAPE) * 255, {WHITE_FIRST: 1}),
        ([BLACK, GREY], SHAPE * 128, {}),
        ([GREY, BLACK], (1 - SHAPE) * 128, {}),
        ([BLACK, RED, WHITE], SHAPE, {}),
        ([WHITE, RED], SHAPE, {OTHER_ZERO: 1}),
        ([RED, (0, 0, 255)], SHAPE, {OTHER_ZERO: 1}),
        ([RED, RED], SHAPE, {}),
        ([(9, 9, 9)] * 256, SHAPE, {}),
    ],
)
def test_a_palette_mask_is_read_by_its_colors(tmp_path, colors, expected, kinds):
    values, found = levels_of(tmp_path, palette_image(colors))
    assert np.array_equal(values, expected) and found == kinds


@pytest.mark.parametrize(
    ("colors", "name"), [([RED, BLACK], "black"), ([RED, WHITE], "white"), ([GREY, BLACK, RED], "black")]
)
def test_a_palette_mask_with_two_backgrounds_is_refused(tmp_path, colors, name):
    with pytest.raises(ValueError, match=f"1.png: the background is either number 0 .* or the {name} pixels"):
        levels_of(tmp_path, palette_image(colors))


def test_a_transparent_number_0_of_a_palette_is_the_background(tmp_path):
    colors = [WHITE, RED, (0, 0, 255)]
    indices = SHAPE.copy()
    indices[2, 3] = 2
    values, _ = levels_of(tmp_path, palette_image(colors, indices), transparency=0)
    assert np.array_equal(values, indices)
    values, kinds = levels_of(tmp_path, palette_image(colors, 1 - SHAPE), transparency=1)
    assert np.array_equal(values, SHAPE * 255) and kinds == {ALPHA: 1}


def test_an_empty_palette_mask_is_empty(tmp_path):
    for colors in ([BLACK, RED], [BLACK, WHITE]):
        assert not levels_of(tmp_path, palette_image(colors, SHAPE * 0))[0].any()
    assert not levels_of(tmp_path, palette_image([WHITE, BLACK], SHAPE * 0 + 1))[0].any()


def test_class_numbers_are_the_indices_of_a_palette_unless_it_is_white_and_black(tmp_path):
    for colors in ([RED, BLACK], [WHITE, BLACK, RED], [BLACK, WHITE], [GREY, BLACK]):
        assert np.array_equal(numbers_of(tmp_path, palette_image(colors))[0], SHAPE)
    numbers, kinds = numbers_of(tmp_path, palette_image([WHITE, BLACK]))
    assert np.array_equal(numbers, 1 - SHAPE) and kinds == {WHITE_FIRST: 1}


def test_class_numbers_are_never_read_from_lossy_files_or_colors(tmp_path):
    with pytest.raises(ValueError, match="1.png: its content is JPEG or another lossy format"):
        numbers_of(tmp_path, Image.fromarray(SHAPE * 255), format="JPEG")
    for picture in (rgb(BLACK, RED), Image.fromarray(np.dstack([SHAPE + 1] * 3 + [SHAPE * 255]))):
        with pytest.raises(ValueError, match="1.png: a mask of several classes must have one number per pixel"):
            numbers_of(tmp_path, picture)
    numbers, _ = numbers_of(tmp_path, Image.fromarray(np.dstack([SHAPE * 2] * 3 + [SHAPE * 255])))
    assert np.array_equal(numbers, SHAPE * 2)


def test_16_bits_per_color_channel_are_refused_as_class_numbers(tmp_path):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">6H", 0, 0, 0, 1, 1, 1))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (tmp_path / "1.png").write_bytes(content)
    with pytest.raises(ValueError, match="1.png: has 16 bits per color channel; save it as a grayscale PNG"):
        class_numbers(read_mask_image(tmp_path / "1.png"), lambda kind: None)


def test_grey_values_that_are_class_numbers_must_equal_the_indices(tmp_path):
    with pytest.raises(ValueError, match=r"pixels are \[0, 1\], but the grey values of its palette are \[2, 0\]"):
        numbers_of(tmp_path, palette_image([(2, 2, 2), BLACK]))
    assert np.array_equal(numbers_of(tmp_path, palette_image([BLACK, (1, 1, 1)]))[0], SHAPE)


@pytest.mark.parametrize("name", ["1.tif", "1.png", "1.gif"])
def test_the_first_of_several_pages_is_read_with_a_note(tmp_path, name):
    picture, other = Image.fromarray(SHAPE * 255), Image.fromarray(SHAPE[::-1] * 255)
    for read in (levels_of, numbers_of):
        values, kinds = read(tmp_path, picture, name, save_all=True, append_images=[other])
        assert np.array_equal(values > 0, SHAPE > 0) and kinds == {PAGES: 1}
        assert PAGES not in read(tmp_path, picture, name)[1]
