"""Opening images: every mode, every orientation, several frames, and the same result for all callers."""

import logging
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_files import png, refusal_of, saved
from PIL import Image, ImageOps

from gemma_lisa import images_gemma_lisa
from gemma_lisa.datasets_builder.rows import load_image
from gemma_lisa.images_gemma_lisa import (
    load_rgb,
    open_upright,
)

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples" / "misc_mmseg"
SOURCE = "some_set/val/000007"
EXIF_ORIENTATION = 0x0112
HALF_ON_WHITE = 127  # black of opacity 128 on white


@pytest.fixture(autouse=True)
def nothing_said_yet():
    images_gemma_lisa._warn_once.cache_clear()


# ---------------------------------------------------------------------------------------------------------------------
# Modes
# ---------------------------------------------------------------------------------------------------------------------
def in_every_mode():
    """Return images of noise in every mode of Pillow, and with every way to declare transparency."""
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (20, 30, 4), dtype=np.uint8), "RGBA")
    rgb = rgba.convert("RGB")
    modes = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
    made = {mode: rgb.convert(mode) for mode in modes} | {mode: rgba.convert(mode) for mode in ("RGBA", "RGBa", "LA")}
    made["LAB"] = Image.merge("LAB", rgb.split())
    made["La"], made["PA"] = made["LA"].convert("La"), made["P"].convert("PA")
    deep = rng.integers(0, 65536, (20, 30), dtype=np.uint16)
    made["I;16"], made["I;16B"] = Image.fromarray(deep), Image.fromarray(deep.astype(">u2"))
    files = {
        "palette with one clear index": saved(made["P"], transparency=3),
        "palette with an opacity each": saved(made["P"], transparency=bytes(range(256))),
        "RGB with a clear colour": saved(rgb, transparency=rgb.getpixel((4, 5))),
        "greyscale with a clear grey": saved(made["L"], transparency=made["L"].getpixel((4, 5))),
        "1 bit with a clear value": saved(made["1"], transparency=1),
        "GIF with a clear index": saved(made["P"], "GIF", transparency=3),
        "WebP with opacities": saved(rgba, "WEBP", lossless=True),
        "TIFF with opacities": saved(rgba, "TIFF"),
        "CMYK JPEG": saved(made["CMYK"], "JPEG"),
        "CMYK TIFF": saved(made["CMYK"], "TIFF"),
        "16-bit PNG": saved(made["I;16"]),
        "16-bit PGM": saved(made["I;16"], "PPM"),
    }
    return made | files


@pytest.mark.parametrize("name", in_every_mode())
def test_processor_and_data_sets_read_every_mode_as_the_same_rgb(tiny, name, tmp_path):
    given = in_every_mode()[name]
    path = tmp_path / "picture"
    ways = [given]
    if isinstance(given, bytes):
        path.write_bytes(given)
        ways = [Image.open(BytesIO(given)), path, str(path), {"bytes": given, "path": None}]
    of_rows = [load_image(way, SOURCE) for way in ways]
    of_hub = [load_rgb(way["bytes"] if isinstance(way, dict) else way) for way in ways]
    for image in of_rows + of_hub:
        assert (image.mode, image.size) == ("RGB", (30, 20))
        np.testing.assert_array_equal(np.asarray(image), np.asarray(of_rows[0]))
    assert np.asarray(of_rows[0]).std() > 20  # the noise is still visible

    expected = tiny[1].encode_images([of_rows[0]])
    for way in ways:
        found = tiny[1].encode_images([way["bytes"] if isinstance(way, dict) else way])
        for tensor in expected:
            assert torch.equal(found[tensor], expected[tensor])


@pytest.mark.parametrize(
    "picture, rgb",
    [
        (Image.new("1", (8, 6), 1), (255, 255, 255)),
        (Image.new("L", (8, 6), 77), (77, 77, 77)),
        (Image.new("RGB", (8, 6), (10, 200, 30)).quantize(4), (10, 200, 30)),
        (Image.new("RGBA", (8, 6), (10, 200, 30, 255)), (10, 200, 30)),
        (Image.new("RGBA", (8, 6), (10, 200, 30, 0)), (255, 255, 255)),
        (Image.new("RGBA", (8, 6), (0, 0, 0, 128)), (HALF_ON_WHITE,) * 3),
        (Image.new("RGBA", (8, 6), (0, 0, 0, 128)).convert("RGBa"), (HALF_ON_WHITE,) * 3),
        (Image.new("LA", (8, 6), (77, 0)), (255, 255, 255)),
        (Image.new("LA", (8, 6), (0, 128)), (HALF_ON_WHITE,) * 3),
        (Image.new("LA", (8, 6), (0, 128)).convert("La"), (HALF_ON_WHITE,) * 3),
        (Image.new("CMYK", (8, 6), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("YCbCr", (8, 6), (255, 128, 128)), (255, 255, 255)),
        (Image.new("HSV", (8, 6), (0, 255, 255)), (255, 0, 0)),
        (Image.new("LAB", (8, 6), (255, 128, 128)), (255, 255, 255)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_transparent_colours_are_composited_on_white(picture, rgb):
    np.testing.assert_allclose(load_rgb(picture).getpixel((3, 3)), rgb, atol=1)


@pytest.mark.parametrize("declared", [{"mode": "P"}, {"mode": "L"}, {"mode": "RGB"}, {"mode": "1"}])
def test_transparent_palette_value_is_white_and_others_are_unchanged(declared):
    two = Image.new("1", (8, 6), 0)
    two.paste(1, (4, 0, 8, 6))
    picture = two.convert(declared["mode"])
    rgb = load_rgb(saved(picture, transparency=(0, 0, 0) if declared["mode"] == "RGB" else picture.getpixel((0, 0))))
    assert rgb.getpixel((0, 0)) == (255, 255, 255) and rgb.getpixel((7, 0)) == (255, 255, 255)
    opposite = saved(ImageOps.invert(two.convert("L")).convert("RGB"), transparency=(1, 2, 3))
    assert load_rgb(opposite).getpixel((7, 0)) == (0, 0, 0)


def grey_tiff(values, bits=16, white_is_zero=False):
    """Return a little-endian greyscale TIFF of one strip. 12-bit values are packed, two in three bytes."""
    height, width = values.shape
    data = values.astype("<u2").tobytes()
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(int)
        data = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs.tolist())
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 0 if white_is_zero else 1)]
    tags += [(273, 8), (277, 1), (278, height), (279, len(data))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + directory + bytes(4)


def test_sixteen_bit_grey_has_one_fixed_range_in_every_format():
    values = np.array([[0, 255, 256, 1000], [4096, 32768, 65279, 65535]], dtype=np.uint16)
    picture = Image.fromarray(values)
    files = {
        "PNG": saved(picture),
        "TIFF": saved(picture, "TIFF"),
        "big-endian TIFF": saved(Image.fromarray(values.astype(">u2")), "TIFF"),
        "PGM": saved(picture, "PPM"),
        "JPEG 2000": saved(picture, "JPEG2000"),
        "written by this test": grey_tiff(values),
        "PIL image": picture,
    }
    for name, file in files.items():
        np.testing.assert_array_equal(np.asarray(load_rgb(file))[..., 0], values >> 8, err_msg=name)
    np.testing.assert_array_equal(
        np.asarray(load_rgb(grey_tiff(values, white_is_zero=True)))[..., 0], 255 - (values >> 8)
    )
    few = load_rgb(saved(Image.fromarray(values[:, :2])))
    assert np.asarray(few).max() == 128  # not stretched to the values of the file


def test_twelve_bit_grey_has_its_own_range():
    values = np.array([[0, 15, 16, 2048], [4080, 4095, 100, 1000]], dtype=np.uint16)
    np.testing.assert_array_equal(np.asarray(load_rgb(grey_tiff(values, bits=12)))[..., 0], values >> 4)


def test_transparent_sixteen_bit_grey_is_white():
    values = np.array([[1000, 2000]], dtype=np.uint16)
    rgb = load_rgb(saved(Image.fromarray(values), transparency=1000))
    assert np.asarray(rgb)[0, :, 0].tolist() == [255, 2000 >> 8]


def test_sixteen_bit_colour_loses_the_same_bits_as_grey():
    values = np.array([[0, 255, 256, 40000, 65535]], dtype=np.uint16)
    raw = b"\0" + np.repeat(values, 3).astype(">u2").tobytes()
    colour = png(5, 1, raw, depth=16, colour_type=2)
    np.testing.assert_array_equal(np.asarray(load_rgb(colour)), np.asarray(load_rgb(Image.fromarray(values))))


@pytest.mark.parametrize("mode, values", [("I", np.int32), ("F", np.float32)])
def test_modes_without_a_defined_range_are_an_error(mode, values, tmp_path):
    picture = Image.fromarray(np.full((6, 8), 1000, values))
    path = tmp_path / "depth.tif"
    picture.save(path)
    assert picture.mode == mode
    for call in (lambda: load_rgb(picture), lambda: load_rgb(path)):
        assert f"mode {mode}, which has no defined value range. Save it with 8 bits" in refusal_of(call)
    assert refusal_of(lambda: load_rgb(path)).startswith(str(path))


# ---------------------------------------------------------------------------------------------------------------------
# Orientation
# ---------------------------------------------------------------------------------------------------------------------
STORED_AS = {  # EXIF 2.32, orientation: how the upright image is stored in the file
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}


def lying(upright, orientation, file_format, **options):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    method = STORED_AS[orientation]
    stored = upright if method is None else upright.transpose(method)
    return saved(stored, file_format, exif=exif, **options)


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize("file_format", LOSSLESS)
def test_every_orientation_is_applied_once_to_files_and_pil_images(make_picture, orientation, file_format):
    upright = make_picture(12, 20)
    file = lying(upright, orientation, file_format, **LOSSLESS[file_format])
    decoded = Image.open(BytesIO(file))
    decoded.load()
    for way in (file, Image.open(BytesIO(file)), decoded):
        image = load_rgb(way)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(upright))
        np.testing.assert_array_equal(np.asarray(load_rgb(image)), np.asarray(upright))  # not rotated twice
        np.testing.assert_array_equal(np.asarray(load_image(way, SOURCE) if way is not file else image), upright)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
def test_images_are_rotated_before_their_mode_is_converted(make_picture, mode):
    values = np.arange(12 * 20, dtype=np.uint16).reshape(12, 20) * 256
    upright = Image.fromarray(values) if mode == "I;16" else make_picture(12, 20).convert(mode)
    for orientation in STORED_AS:
        file = lying(upright, orientation, "TIFF" if mode == "CMYK" else "PNG")
        np.testing.assert_array_equal(np.asarray(load_rgb(file)), np.asarray(load_rgb(upright)))


def test_given_pil_image_is_not_changed(make_picture):
    file = lying(make_picture(12, 20), 6, "PNG")
    picture = Image.open(BytesIO(file))
    load_rgb(picture)
    assert picture.size == (12, 20) and picture.getexif()[EXIF_ORIENTATION] == 6


def test_undefined_orientation_is_ignored(make_picture):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 9
    file = saved(make_picture(12, 20), exif=exif)
    np.testing.assert_array_equal(np.asarray(load_rgb(file)), np.asarray(make_picture(12, 20)))


def test_upright_rgb_image_is_not_copied(make_picture):
    picture = make_picture(20, 30)
    assert load_rgb(picture) is picture


# ---------------------------------------------------------------------------------------------------------------------
# Several frames
# ---------------------------------------------------------------------------------------------------------------------
FRAMES = [Image.new("RGB", (8, 6), colour) for colour in ((250, 10, 10), (10, 10, 250))]


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_is_used_with_one_warning_per_file(file_format, tmp_path, caplog):
    paths = [tmp_path / "one", tmp_path / "other"]
    for path in paths:
        path.write_bytes(saved(FRAMES[0], file_format, save_all=True, append_images=FRAMES[1:], duration=50))
    for path in [*paths, *paths]:
        image = load_rgb(path)
        np.testing.assert_allclose(image.getpixel((3, 3)), (250, 10, 10), atol=3)
        load_rgb(image)  # the opened image has only one frame
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    for path, record in zip(paths, caplog.records, strict=True):
        assert record.getMessage() == f"{path} is animated or has several pages. Only the first is used."


def test_current_frame_of_a_given_animation_is_used(tmp_path, caplog):
    path = tmp_path / "two.gif"
    FRAMES[0].save(path, save_all=True, append_images=FRAMES[1:])
    with Image.open(path) as opened:
        assert load_rgb(opened).getpixel((3, 3)) == (250, 10, 10)
        assert str(path) in caplog.text
        opened.seek(1)
        caplog.clear()
        images_gemma_lisa._warn_once.cache_clear()
        assert load_rgb(opened).getpixel((3, 3)) == (10, 10, 250)
    assert not caplog.records


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF", "MPO", "JPEG"])
def test_single_image_gives_no_warning(file_format, caplog):
    load_rgb(saved(FRAMES[0], file_format))
    load_rgb(saved(FRAMES[0], "MPO", save_all=True, append_images=FRAMES[1:]))  # a photo with its preview
    assert not caplog.records


# ---------------------------------------------------------------------------------------------------------------------
# Real files
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def samples_folder():
    if not SAMPLES.is_dir():
        pytest.skip(f"the sample images are missing: no folder {SAMPLES}")
    return SAMPLES


def test_grey_photo_is_close_to_the_coloured_one(samples_folder):
    colour, grey = (load_rgb(samples_folder / name) for name in ("color.jpg", "gray.jpg"))
    assert colour.size == grey.size
    red, green, blue = grey.split()
    assert red.tobytes() == green.tobytes() == blue.tobytes()
    difference = np.abs(np.asarray(colour.convert("L"), dtype=int) - np.asarray(red, dtype=int))
    assert difference.mean() < 5


def test_mask_file_keeps_its_indices_and_is_rotated_like_its_photo(samples_folder, tmp_path):
    photo, mask = load_rgb(samples_folder / "color.jpg"), open_upright(samples_folder / "seg.png")
    indices = np.asarray(Image.open(samples_folder / "seg.png"))
    assert mask.mode == "P" and mask.size == photo.size
    for orientation in STORED_AS:
        file = lying(mask, orientation, "PNG")
        np.testing.assert_array_equal(np.asarray(open_upright(file)), indices)
