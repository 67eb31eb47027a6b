"""The object of a mask: exact numbers, soft edges, JPEG noise, and masks with several readings."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from gemma_lisa.datasets_builder.formats.soft_masks import SEVERAL, SOFT, object_pixels

SIZE = (64, 48)  # width, height
PATH = Path("masks/1.png")


def disc(value=255):
    """Return a mask of a disc with hard edges."""
    picture = Image.new("L", SIZE)
    ImageDraw.Draw(picture).ellipse((15, 10, 45, 36), fill=value)
    return np.asarray(picture)


def soft(radius=1.0):
    return np.asarray(Image.fromarray(disc()).filter(ImageFilter.GaussianBlur(radius)))


def after_jpeg(values, quality=90):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def found_in(values, ignore_value=255, is_lossy=False):
    """Return the object and the kinds of notes with their number of cases."""
    kinds = Counter()
    found = object_pixels(values, ignore_value, is_lossy, PATH, lambda kind: kinds.update([kind]))
    return found, dict(kinds)


@pytest.mark.parametrize("value", [1, 7, 128, 255, 257, 65_535])
@pytest.mark.parametrize("ignore_value", [0, 255])
def test_one_number_besides_0_is_the_object(value, ignore_value):
    values = (disc(1) * np.uint16(value)).astype(np.uint16 if value > 255 else np.uint8)
    found, kinds = found_in(values, ignore_value)
    assert np.array_equal(found.pixels, disc() > 0) and found.ignore is None and found.number == value and kinds == {}


@pytest.mark.parametrize("ignore_value", [0, 255])
@pytest.mark.parametrize("scale", [1, 257])
def test_half_or_more_is_the_object_with_soft_edges(ignore_value, scale):
    values = soft().astype(np.uint16) * scale if scale > 1 else soft()
    found, kinds = found_in(values, ignore_value)
    assert np.array_equal(found.pixels, soft() >= 127.5) and found.ignore is None and kinds == {SOFT: 1}


@pytest.mark.parametrize("ignore_value", [0, 255])
@pytest.mark.parametrize("is_lossy", [True, False])
def test_jpeg_noise_is_not_the_object(ignore_value, is_lossy):
    values = after_jpeg(disc())
    assert len(np.unique(values)) > 10
    found, kinds = found_in(values, ignore_value, is_lossy)
    assert np.array_equal(found.pixels, disc() > 0) and kinds == {SOFT: 1}


def test_jpeg_noise_without_an_exact_0_has_a_background():
    values = np.maximum(after_jpeg(disc()), 2)
    assert np.array_equal(found_in(values)[0].pixels, disc() > 0)


def test_a_jpeg_of_class_numbers_or_of_a_trimap_is_refused():
    numbers = np.zeros(SIZE[::-1], dtype=np.uint8)
    numbers[5:20, 5:30], numbers[25:40, 30:60], numbers[30:45, 5:20] = 1, 2, 3
    trimap = np.asarray(Image.fromarray(disc()).filter(ImageFilter.MaxFilter(3))) // 2 + disc() // 2 + disc() % 2
    for values in (numbers, numbers * 60, np.where(trimap == 127, 128, disc())):
        with pytest.raises(ValueError, match="is JPEG or another lossy format, .*Export it again as PNG"):
            found_in(after_jpeg(values.astype(np.uint8)), is_lossy=True)
    with pytest.raises(ValueError, match="besides 0 .*export it again from the program that made it"):
        found_in(after_jpeg(numbers * 60), is_lossy=False)


@pytest.mark.parametrize("ignore_value", [0, 255])
def test_black_grey_and_white_are_refused_unless_grey_is_ignored(ignore_value):
    values = disc()
    values = np.where(np.arange(SIZE[0]) < 30, values, values // 255 * 128).astype(np.uint8)
    with pytest.raises(
        ValueError, match=r"masks/1.png: has 2 numbers besides 0 \(128, 255\).*`128: mug`.*ignore_value"
    ):
        found_in(values, ignore_value)
    found, _ = found_in(values, ignore_value=128)
    assert np.array_equal(found.pixels, values == 255) and np.array_equal(found.ignore, values == 128)


def test_1_is_the_object_beside_ignored_255():
    values = disc(1).copy()
    values[:4] = 255
    found, kinds = found_in(values)
    assert np.array_equal(found.pixels, values == 1) and np.array_equal(found.ignore, values == 255) and kinds == {}
    found, kinds = found_in(values, ignore_value=0)
    assert np.array_equal(found.pixels, values > 0) and found.ignore is None and kinds == {SEVERAL: 1}


@pytest.mark.parametrize("number", [3, 40, 200])
def test_numbered_parts_are_one_object_with_a_note(number):
    values = np.zeros((48, 100), dtype=np.uint16)
    for at in range(number):
        values[at // 25 * 4 : at // 25 * 4 + 3, at % 25 * 4 : at % 25 * 4 + 3] = at + 1
    found, kinds = found_in(values)
    assert np.array_equal(found.pixels, values > 0) and kinds == {SEVERAL: 1}


def test_a_gradient_and_a_label_map_with_an_ignored_number_are_refused():
    with pytest.raises(ValueError, match="has 255 numbers besides 0"):
        found_in(np.tile(np.arange(256, dtype=np.uint8), (48, 1)), ignore_value=0)
    values = np.zeros((48, 64), dtype=np.uint8)
    values[:9, :9], values[20:30, :9], values[20:30, 30:], values[40:] = 1, 2, 3, 255
    for ignore_value in (0, 255):
        with pytest.raises(ValueError, match="has 4 numbers besides 0"):
            found_in(values, ignore_value)


@pytest.mark.parametrize("values", [disc(1) + 1, disc() // 255 * 0 + 255, np.maximum(disc(2), 1)])
def test_a_mask_without_background_is_refused(values):
    with pytest.raises(ValueError, match=r"no pixel is 0 \(the background\), .*`2: background`"):
        found_in(values)


def test_floating_point_numbers_are_whole_or_from_0_to_1():
    assert np.array_equal(found_in((disc() > 0).astype(np.float32))[0].pixels, disc() > 0)
    assert np.array_equal(found_in(soft().astype(np.float32) / 255)[0].pixels, soft() >= 127.5)
    for bad in (np.nan, -1.0, 1.5):
        with pytest.raises(ValueError, match="masks/1.png: has .*; save it in black and white"):
            found_in(np.where(disc() > 0, np.float32(bad), 0))
    with pytest.raises(ValueError, match="negative number -3"):
        found_in(np.where(disc() > 0, -3, 0))


def test_an_empty_mask_has_no_object():
    found, kinds = found_in(np.zeros((4, 5), dtype=np.uint8))
    assert found.pixels.shape == (4, 5) and not found.pixels.any() and kinds == {}


def test_thin_soft_lines_are_soft_and_a_heat_map_is_refused():
    picture = Image.new("L", (256, 192))
    ImageDraw.Draw(picture).line((20, 20, 200, 150), fill=255, width=6)
    line = np.asarray(picture.resize(SIZE, Image.Resampling.BOX))
    found, kinds = found_in(line)
    assert np.array_equal(found.pixels, line >= line.max() / 2) and kinds == {SOFT: 1}
    y, x = np.indices(SIZE[::-1])
    heat = np.rint(255 * np.exp(-((x - 30) ** 2 + (y - 20) ** 2) / 30)).astype(np.uint8)
    for ignore_value in (0, 255):
        with pytest.raises(ValueError, match="numbers besides 0"):
            found_in(heat, ignore_value)


def test_the_advice_for_an_object_with_a_border_names_both_numbers():
    values = np.zeros((48, 64), dtype=np.uint8)
    values[8:30, 8:30], values[10:28, 10:28] = 255, 38
    with pytest.raises(ValueError, match="If 38 is the object and 255 is ignored, write the line `38: mug` .*to 38"):
        found_in(values)
    assert np.array_equal(found_in(values, ignore_value=38)[0].pixels, values == 255)
