"""Opening images: every mode, every orientation, every size, and what is refused; the same for all who open one."""

import ast
import logging
import struct
import warnings
import weakref
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageOps
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from gemma_lisa import images_gemma_lisa, processing_gemma_lisa
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.formats.jpeg_header import stored_size
from gemma_lisa.datasets_builder.rows import load_image
from gemma_lisa.images_gemma_lisa import (
    MAX_IMAGE_PIXELS,
    MAX_IMAGE_PIXELS_VARIABLE,
    PixelNormalization,
    load_rgb,
    open_upright,
)

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples" / "misc_mmseg"
SOURCE = "some_set/val/000007"
EXIF_DESCRIPTION, EXIF_ORIENTATION = 0x010E, 0x0112
HALF_ON_WHITE = 127  # black of opacity 128 on white


@pytest.fixture(autouse=True)
def nothing_said_yet():
    images_gemma_lisa._say_once.cache_clear()


def encoded(picture, file_format="PNG", **options):
    buffer = BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def refusal_of(call):
    """The one line with which a call refuses; it warns of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError) as refusal:
            call()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# ---------------------------------------------------------------------------------------------------------------------
# Modes
# ---------------------------------------------------------------------------------------------------------------------
def in_every_mode():
    """A picture of noise in every mode that Pillow converts to, and the ways in which files declare transparency."""
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
        "palette with one clear index": encoded(made["P"], transparency=3),
        "palette with an opacity each": encoded(made["P"], transparency=bytes(range(256))),
        "RGB with a clear colour": encoded(rgb, transparency=rgb.getpixel((4, 5))),
        "greyscale with a clear grey": encoded(made["L"], transparency=made["L"].getpixel((4, 5))),
        "1 bit with a clear value": encoded(made["1"], transparency=1),
        "GIF with a clear index": encoded(made["P"], "GIF", transparency=3),
        "WebP with opacities": encoded(rgba, "WEBP", lossless=True),
        "TIFF with opacities": encoded(rgba, "TIFF"),
        "CMYK JPEG": encoded(made["CMYK"], "JPEG"),
        "CMYK TIFF": encoded(made["CMYK"], "TIFF"),
        "16-bit PNG": encoded(made["I;16"]),
        "16-bit PGM": encoded(made["I;16"], "PPM"),
    }
    return made | files


@pytest.mark.parametrize("name", in_every_mode())
def test_every_mode_is_the_same_rgb_for_the_processor_and_the_data_sets(tiny, name, tmp_path):
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
    assert np.asarray(of_rows[0]).std() > 20  # something is left of the noise

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
def test_colours_are_those_that_are_seen_on_a_white_page(picture, rgb):
    np.testing.assert_allclose(load_rgb(picture).getpixel((3, 3)), rgb, atol=1)


@pytest.mark.parametrize("declared", [{"mode": "P"}, {"mode": "L"}, {"mode": "RGB"}, {"mode": "1"}])
def test_a_value_that_a_file_declares_clear_is_white_and_the_others_stay(declared):
    two = Image.new("1", (8, 6), 0)
    two.paste(1, (4, 0, 8, 6))
    picture = two.convert(declared["mode"])
    rgb = load_rgb(encoded(picture, transparency=(0, 0, 0) if declared["mode"] == "RGB" else picture.getpixel((0, 0))))
    assert rgb.getpixel((0, 0)) == (255, 255, 255) and rgb.getpixel((7, 0)) == (255, 255, 255)
    opposite = encoded(ImageOps.invert(two.convert("L")).convert("RGB"), transparency=(1, 2, 3))
    assert load_rgb(opposite).getpixel((7, 0)) == (0, 0, 0)


def grey_tiff(values, bits=16, white_is_zero=False):
    """A little-endian greyscale TIFF of one strip; 12 bits are packed, two values in three bytes."""
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
        "PNG": encoded(picture),
        "TIFF": encoded(picture, "TIFF"),
        "big-endian TIFF": encoded(Image.fromarray(values.astype(">u2")), "TIFF"),
        "PGM": encoded(picture, "PPM"),
        "JPEG 2000": encoded(picture, "JPEG2000"),
        "by hand": grey_tiff(values),
        "picture": picture,
    }
    for name, file in files.items():
        np.testing.assert_array_equal(np.asarray(load_rgb(file))[..., 0], values >> 8, err_msg=name)
    np.testing.assert_array_equal(
        np.asarray(load_rgb(grey_tiff(values, white_is_zero=True)))[..., 0], 255 - (values >> 8)
    )
    few = load_rgb(encoded(Image.fromarray(values[:, :2])))
    assert np.asarray(few).max() == 128  # not stretched to what the file happens to hold


def test_twelve_bit_grey_has_its_own_range():
    values = np.array([[0, 15, 16, 2048], [4080, 4095, 100, 1000]], dtype=np.uint16)
    np.testing.assert_array_equal(np.asarray(load_rgb(grey_tiff(values, bits=12)))[..., 0], values >> 4)


def test_a_clear_sixteen_bit_grey_is_white():
    values = np.array([[1000, 2000]], dtype=np.uint16)
    rgb = load_rgb(encoded(Image.fromarray(values), transparency=1000))
    assert np.asarray(rgb)[0, :, 0].tolist() == [255, 2000 >> 8]


def test_sixteen_bit_colour_loses_the_same_bits_as_grey():
    values = np.array([[0, 255, 256, 40000, 65535]], dtype=np.uint16)
    raw = b"\0" + np.repeat(values, 3).astype(">u2").tobytes()
    colour = png(5, 1, raw, depth=16, colour_type=2)
    np.testing.assert_array_equal(np.asarray(load_rgb(colour)), np.asarray(load_rgb(Image.fromarray(values))))


@pytest.mark.parametrize("mode, values", [("I", np.int32), ("F", np.float32)])
def test_modes_whose_range_is_not_agreed_on_are_refused(mode, values, tmp_path):
    picture = Image.fromarray(np.full((6, 8), 1000, values))
    path = tmp_path / "depth.tif"
    picture.save(path)
    assert picture.mode == mode
    for call in (lambda: load_rgb(picture), lambda: load_rgb(path)):
        assert f"mode {mode}, whose range is not agreed on; save it with 8 bits" in refusal_of(call)
    assert refusal_of(lambda: load_rgb(path)).startswith(str(path))


# ---------------------------------------------------------------------------------------------------------------------
# Orientation
# ---------------------------------------------------------------------------------------------------------------------
STORED_AS = {  # EXIF 2.32, orientation: how the upright picture lies in the file
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
    return encoded(stored, file_format, exif=exif, **options)


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize("file_format", LOSSLESS)
def test_every_orientation_is_applied_once_to_files_and_pictures(make_picture, orientation, file_format):
    upright = make_picture(12, 20)
    file = lying(upright, orientation, file_format, **LOSSLESS[file_format])
    decoded = Image.open(BytesIO(file))
    decoded.load()
    for way in (file, Image.open(BytesIO(file)), decoded):
        image = load_rgb(way)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(upright))
        np.testing.assert_array_equal(np.asarray(load_rgb(image)), np.asarray(upright))  # not turned twice
        np.testing.assert_array_equal(np.asarray(load_image(way, SOURCE) if way is not file else image), upright)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
def test_pictures_of_any_mode_are_turned_before_their_mode_is_changed(make_picture, mode):
    values = np.arange(12 * 20, dtype=np.uint16).reshape(12, 20) * 256
    upright = Image.fromarray(values) if mode == "I;16" else make_picture(12, 20).convert(mode)
    for orientation in STORED_AS:
        file = lying(upright, orientation, "TIFF" if mode == "CMYK" else "PNG")
        np.testing.assert_array_equal(np.asarray(load_rgb(file)), np.asarray(load_rgb(upright)))


def test_a_handed_in_picture_is_not_changed(make_picture):
    file = lying(make_picture(12, 20), 6, "PNG")
    picture = Image.open(BytesIO(file))
    load_rgb(picture)
    assert picture.size == (12, 20) and picture.getexif()[EXIF_ORIENTATION] == 6


def test_an_orientation_that_does_not_exist_leaves_the_picture(make_picture):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 9
    file = encoded(make_picture(12, 20), exif=exif)
    np.testing.assert_array_equal(np.asarray(load_rgb(file)), np.asarray(make_picture(12, 20)))


# ---------------------------------------------------------------------------------------------------------------------
# Sizes
# ---------------------------------------------------------------------------------------------------------------------
SIZES = [(1, 1), (3, 50), (50, 3), (1, 8000), (8000, 1), (2, 4000), (4000, 2), (64, 64), (48, 101)]  # (height, width)


@pytest.mark.parametrize("size", [(40, 60), (64, 64), (131, 77), (3, 50)])
def test_both_towers_get_what_the_stock_processors_make_of_the_whole_image(tiny, make_picture, size):
    processor, picture = tiny[1], make_picture(*size)
    found = processor.encode_images([picture])
    gemma = Gemma3ImageProcessorPil.from_dict(processor.image_processor.to_dict())([picture], return_tensors="pt")
    sam = SamImageProcessorPil.from_dict(processor.sam_image_processor.to_dict())([picture], return_tensors="pt")
    assert torch.equal(found["pixel_values"], gemma["pixel_values"])
    assert torch.equal(found["sam_pixel_values"], sam["pixel_values"])
    for name in ("original_sizes", "reshaped_input_sizes"):
        assert torch.equal(found[name], torch.as_tensor(sam[name]))


@pytest.mark.parametrize(
    ("options", "computed"),
    [
        ({}, True),
        ({"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}, True),
        ({"do_normalize": False}, True),
        ({"do_rescale": False}, True),
        ({"do_rescale": False, "do_normalize": False}, True),
        ({"rescale_factor": 0.0039}, False),  # no division by a number of 32 bits gives the same
    ],
)
def test_pixels_get_the_stock_processor_s_values_whatever_it_is_told(make_picture, options, computed):
    stock = Gemma3ImageProcessorPil(**{"size": {"height": 64, "width": 64}, **options})
    picture = make_picture(64, 64)
    normalization = PixelNormalization(stock)
    assert (normalization.steps is not None) == computed
    found = normalization(torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())[None])
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found, stock([picture], return_tensors="np")["pixel_values"])


def say(model, processor, answer):
    """Makes the model say the answer, whatever it sees."""
    script = iter(processor.tokenizer(answer, add_special_tokens=False)["input_ids"])

    def forced(module, inputs, output):
        logits = torch.zeros_like(output)
        logits[:, -1, next(script)] = 1
        return logits

    return model.lm_head.register_forward_hook(forced)


def test_masks_come_back_at_the_size_of_any_image(tiny, make_picture):
    model, processor = tiny
    conversations = [
        [{"role": "user", "content": [{"type": "image", "image": make_picture(*size)}, {"type": "text", "text": "it"}]}]
        for size in SIZES
    ]
    inputs = processor.apply_chat_template(conversations, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert inputs["original_sizes"].tolist() == [list(size) for size in SIZES]
    assert inputs["reshaped_input_sizes"].min() == 1 and inputs["reshaped_input_sizes"].max() == 64
    hook = say(model, processor, "[SEG] and [SEG]<end_of_turn>")
    output = model.segment(**inputs, max_new_tokens=8)
    hook.remove()
    answers = processor.post_process_segmentation(output, inputs)
    for number, (size, answer) in enumerate(zip(SIZES, answers, strict=True)):
        assert answer["masks"].shape == (2, *size) and answer["masks"].dtype == torch.bool
        logits = processor.masks_to_image(
            output.pred_masks[2 * number :][:2], size, inputs["reshaped_input_sizes"][number]
        )
        assert logits.isfinite().all() and torch.equal(answer["masks"], logits > 0)


@pytest.mark.parametrize("size", SIZES)
def test_images_of_any_size_are_learned_from(tiny, make_sample, size):
    model, processor = tiny
    batch = GemmaLisaCollator(processor)([make_sample(["It is {seg}.", "{seg} and {seg}."], size=size)])
    assert len(batch["mask_targets"]) == 3 and max(batch["mask_targets"].shape[1:]) == min(1024, max(size))
    output = model(**batch)
    assert output.loss.isfinite() and output.mask_bce_loss > 0 and output.mask_dice_loss > 0
    model.zero_grad()
    output.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.zero_grad()


def test_of_the_images_of_a_batch_one_at_a_time_is_held(tiny, make_picture, tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path in paths:
        make_picture(20, 30).save(path)
    opened, held = [], []

    def counting(image):
        held.append(sum(reference() is not None for reference in opened))
        rgb = load_rgb(image)
        opened.append(weakref.ref(rgb))
        return rgb

    monkeypatch.setattr(processing_gemma_lisa, "load_rgb", counting)
    tiny[1].encode_images(paths)
    assert len(held) == 4 and max(held) <= 1


def test_an_upright_rgb_picture_is_not_copied(make_picture):
    picture = make_picture(20, 30)
    assert load_rgb(picture) is picture


# ---------------------------------------------------------------------------------------------------------------------
# Several frames
# ---------------------------------------------------------------------------------------------------------------------
FRAMES = [Image.new("RGB", (8, 6), colour) for colour in ((250, 10, 10), (10, 10, 250))]


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_is_used_and_said_so_once_a_file(file_format, tmp_path, caplog):
    paths = [tmp_path / "one", tmp_path / "other"]
    for path in paths:
        path.write_bytes(encoded(FRAMES[0], file_format, save_all=True, append_images=FRAMES[1:], duration=50))
    for path in [*paths, *paths]:
        image = load_rgb(path)
        np.testing.assert_allclose(image.getpixel((3, 3)), (250, 10, 10), atol=3)
        load_rgb(image)  # what was opened is one picture from then on
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    for path, record in zip(paths, caplog.records, strict=True):
        assert record.getMessage() == f"{path} is animated or has several pages; the first is used."


def test_a_handed_in_animation_is_taken_at_the_frame_it_stands_at(tmp_path, caplog):
    path = tmp_path / "two.gif"
    FRAMES[0].save(path, save_all=True, append_images=FRAMES[1:])
    with Image.open(path) as opened:
        assert load_rgb(opened).getpixel((3, 3)) == (250, 10, 10)
        assert str(path) in caplog.text
        opened.seek(1)
        caplog.clear()
        images_gemma_lisa._say_once.cache_clear()
        assert load_rgb(opened).getpixel((3, 3)) == (10, 10, 250)
    assert not caplog.records


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF", "MPO", "JPEG"])
def test_nothing_is_said_of_a_single_picture(file_format, caplog):
    load_rgb(encoded(FRAMES[0], file_format))
    load_rgb(encoded(FRAMES[0], "MPO", save_all=True, append_images=FRAMES[1:]))  # a photo with its preview
    assert not caplog.records


# ---------------------------------------------------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------------------------------------------------
def png(width, height, raw, depth=8, colour_type=2):
    """A PNG that declares the size, whatever its raw rows hold."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="8" height="6"></svg>'
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "cannot be read (the file is empty; download it again or take it out)"),
        (b"this is no picture\n", "in no format of pictures that is supported; save it as PNG or JPEG"),
        (SVG, "it is a drawing, SVG or PostScript, which has no pixels; save it as PNG"),
        (POSTSCRIPT, "it is a drawing, SVG or PostScript, which has no pixels; save it as PNG"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_to_do(tiny, tmp_path, content, said):
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    for call in (lambda: load_rgb(path), lambda: tiny[1].encode_images([str(path)])):
        line = refusal_of(call)
        assert line.startswith(str(path)) and said in line
    assert refusal_of(lambda: load_rgb(content)).startswith("the image cannot be read")
    assert refusal_of(lambda: load_image({"bytes": content, "path": "x.png"}, SOURCE)).startswith(
        f"{SOURCE}: the image x.png"
    )


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP"])
def test_a_file_that_was_cut_off_is_refused(tmp_path, make_picture, file_format):
    whole = encoded(make_picture(64, 64), file_format)
    path = tmp_path / "picture"
    for part in (0.05, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * part)])
        line = refusal_of(lambda: load_rgb(path))
        assert line.startswith(str(path)) and "cannot be read" in line
        try:  # a picture that was opened before, and is decoded only here
            lazy = Image.open(BytesIO(path.read_bytes()))
        except Exception:
            continue
        assert "cannot be read" in refusal_of(lambda lazy=lazy: load_rgb(lazy))


def test_a_palette_picture_without_a_palette_is_refused_with_its_name(tmp_path):
    path = tmp_path / "noplte.png"
    path.write_bytes(png(8, 6, bytes(9 * 6), colour_type=3))
    line = refusal_of(lambda: load_rgb(path))
    assert line.startswith(f"{path} cannot be read (its palette is missing)")
    assert str(path) in refusal_of(lambda: stored_size(path, SOURCE))
    assert SOURCE in refusal_of(lambda: load_image(str(path), SOURCE))
    assert np.asarray(open_upright(path)).shape == (6, 8)  # as a label map it has its indices


@pytest.mark.parametrize("step", ["load", "getexif", "convert"])
@pytest.mark.parametrize(
    "error", [AssertionError(), KeyError(3), OSError("two\nlines"), MemoryError(), struct.error("x" * 10_000)]
)
def test_whatever_pillow_raises_is_one_line_with_the_name(tmp_path, monkeypatch, step, error):
    path = tmp_path / "picture.gif"
    path.write_bytes(encoded(Image.new("P", (8, 6)), "GIF"))

    def fail(self, *args, **options):
        raise error

    monkeypatch.setattr(Image.Image if step == "convert" else GifImagePlugin.GifImageFile, step, fail)
    line = refusal_of(lambda: load_rgb(path))
    assert line.startswith(f"{path} cannot be read (") and len(line) < len(str(path)) + 300
    if step != "convert":  # a size needs no conversion
        assert str(path) in refusal_of(lambda: stored_size(path, SOURCE))


def test_a_files_name_does_not_break_the_line(tmp_path):
    path = tmp_path / "two\nlines.png"
    path.write_bytes(b"no picture")
    assert "two lines.png" in refusal_of(lambda: load_rgb(path))


def test_what_is_not_there_or_no_image_is_refused(tmp_path):
    for path in (tmp_path / "missing.png", tmp_path, "https://example.com/cat.png"):
        assert refusal_of(lambda path=path: load_rgb(path)).startswith(f"{path} does not exist")
    for thing in (None, 7, np.zeros((6, 8, 3), np.uint8), {"bytes": None}):
        assert "give a PIL image, the path of a file or its bytes" in refusal_of(lambda thing=thing: load_rgb(thing))


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(30_000, 30_000, b"\0"))
    line = refusal_of(lambda: load_rgb(path))
    assert line.startswith(f"{path} has more than 100,000,000 pixels") and MAX_IMAGE_PIXELS_VARIABLE in line
    assert "more than" in refusal_of(lambda: load_rgb(png(10_001, 10_000, b"\0")))
    assert "more than" in refusal_of(lambda: load_rgb(Image.new("1", (10_001, 10_000))))
    assert "cannot be read" in refusal_of(lambda: load_rgb(png(10_000, 10_000, b"\0", depth=1, colour_type=0)))


def test_a_picture_of_no_more_pixels_than_the_limit_is_opened_without_a_word(monkeypatch, caplog):
    """95 million, where Pillow by itself would warn."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows := 89_478_485)
    width, height = 10_000, 9_500
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = open_upright(png(width, height, bytes((1 + width // 8) * height), depth=1, colour_type=0))
    assert opened.size == (width, height) and not caplog.records
    assert pillows < width * height <= MAX_IMAGE_PIXELS
    refusal_of(lambda: open_upright(b""))
    assert pillows == Image.MAX_IMAGE_PIXELS  # other code is left its own


def test_the_limit_can_be_set_and_also_meets_what_hides_in_a_file(monkeypatch, make_picture):
    hidden = bytearray(encoded(make_picture(60, 60), "ICO", sizes=[(60, 60)]))
    hidden[6:8] = bytes([16, 16])  # the directory declares 16 × 16
    monkeypatch.setenv(MAX_IMAGE_PIXELS_VARIABLE, "400")
    assert load_rgb(make_picture(20, 20)).size == (20, 20)
    for image in (make_picture(20, 21), encoded(make_picture(20, 21)), encoded(make_picture(60, 60)), bytes(hidden)):
        assert "more than 400 pixels" in refusal_of(lambda image=image: load_rgb(image))
    monkeypatch.setenv(MAX_IMAGE_PIXELS_VARIABLE, "3600")
    assert load_rgb(encoded(make_picture(60, 60))).size == (60, 60)
    for wrong in ("many", "0", "1e8", ""):
        monkeypatch.setenv(MAX_IMAGE_PIXELS_VARIABLE, wrong)
        assert MAX_IMAGE_PIXELS_VARIABLE in refusal_of(lambda: load_rgb(make_picture(20, 20)))


def test_what_pillow_reads_over_is_said_with_the_files_name(tmp_path, caplog):
    exif = Image.Exif()
    exif[EXIF_DESCRIPTION] = "a text that breaks off"
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(FRAMES[0], "JPEG", exif=exif.tobytes()[:-2]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_rgb(path)
        load_rgb(path)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path} was read, but Pillow says: Truncated")


# ---------------------------------------------------------------------------------------------------------------------
# Formats
# ---------------------------------------------------------------------------------------------------------------------
ROOT = Path(images_gemma_lisa.__file__).resolve().parent
OPENS_FILES = {"PIL.Image.open", "PIL.ImageFile.Parser", "PIL.ImageGrab", "transformers.image_utils.load_image"}


def opened_by(path):
    """The lines at which a Python file opens images by itself."""
    tree, names = ast.parse(path.read_text(encoding="utf-8")), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {(alias.asname or alias.name.split(".")[0]): alias.asname and alias.name for alias in node.names}
            names |= {name: name for name, full in names.items() if full is None}
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {(alias.asname or alias.name): f"{node.module}.{alias.name}" for alias in node.names}

    def full_name(node):
        if isinstance(node, ast.Name):
            return names.get(node.id, "")
        return f"{full_name(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""

    return [node.lineno for node in ast.walk(tree) if full_name(node) in OPENS_FILES]


def test_image_files_are_opened_in_one_place_of_the_project(tmp_path):
    for line in (
        "from PIL import Image\nImage.open",
        "from PIL import Image as I\nI.open",
        "import PIL.Image\nPIL.Image.open",
        "import PIL.Image as I\nI.open",
        "from PIL.Image import open\nopen",
        "from PIL.Image import open as o\no",
    ):
        (tmp_path / "a.py").write_text(f"{line}('a.png')")
        assert opened_by(tmp_path / "a.py") == [2], line
    folders = {"tests", "outputs", "scratch"}
    files = [path for path in ROOT.rglob("*.py") if not {"site-packages", *folders} & set(path.relative_to(ROOT).parts)]
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]
    assert len(files) > 50
    found = {str(path.relative_to(ROOT)): len(lines) for path in files if (lines := opened_by(path))}
    assert found == {name: 1 for name in ("images_gemma_lisa.py", "examples/shapes-tiny/images_gemma_lisa.py")}


def field(record, number, data):
    """A field of an IPTC file."""
    return bytes([0x1C, record, number]) + struct.pack(">H", len(data)) + data


def iptc_with(content):
    """An IPTC file of 64 × 64 pixels that holds a file of another format."""
    side = struct.pack(">H", 64)
    return (
        field(3, 60, b"\1\0") + field(3, 20, side) + field(3, 30, side) + field(3, 120, b"\5") + field(8, 10, content)
    )


WMF = b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<hhhhH", 0, 0, 64, 64, 72) + bytes(6) + b"\1\0\t\0" + bytes(40)
OTHER_FORMATS = {
    "EPS": POSTSCRIPT,
    "EPS with a preview": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(POSTSCRIPT)) + bytes(20) + POSTSCRIPT,
    "IPTC that holds EPS": iptc_with(POSTSCRIPT),
    "IPTC that holds PNG": iptc_with(encoded(Image.new("L", (64, 64)))),
    "WMF": WMF,
    "GRIB": b"GRIB\0\0\0\1" + bytes(40),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(40),
    "PDF": b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
    "XPM": b'/* XPM */\nstatic char *a[] = {\n"1 1 1 1",\n"a c #000000",\n"a"\n};\n',
    "TGA": encoded(Image.new("RGB", (8, 6)), "TGA"),
    "PCX": encoded(Image.new("RGB", (8, 6)), "PCX"),
    "SPIDER": encoded(Image.new("F", (8, 6)), "SPIDER"),
}


@pytest.fixture
def started(tmp_path, monkeypatch):
    """The programs that were started, by name; a program stands where Ghostscript would."""
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")

    def start(command, *args, **options):
        started.append(command[0])
        raise OSError("no program")

    for name in ("check_call", "call", "run", "Popen"):
        monkeypatch.setattr(f"subprocess.{name}", start)
    return started


@pytest.mark.parametrize("kind", OTHER_FORMATS)
@pytest.mark.parametrize("suffix", [".jpg", ".eps", ".iim", ".png"])
def test_other_formats_are_refused_by_their_content_and_start_no_program(tmp_path, started, kind, suffix):
    content, path = OTHER_FORMATS[kind], tmp_path / f"picture{suffix}"
    path.write_bytes(content)
    for call in (
        *(lambda: load_rgb(path), lambda: load_rgb(content), lambda: open_upright(path)),
        *(lambda: load_image({"bytes": content, "path": None}, SOURCE), lambda: stored_size(path, SOURCE)),
    ):
        assert "cannot be read" in refusal_of(call)
    assert not started


@pytest.mark.parametrize("kind", ["EPS", "IPTC that holds EPS", "WMF", "TGA"])
def test_a_picture_of_another_format_is_refused_before_it_is_decoded(tiny, started, kind):
    picture = Image.open(BytesIO(OTHER_FORMATS[kind]))
    picture.load = lambda: pytest.fail("the picture was decoded")
    assert f"pictures of the format {kind.split()[0]} are not supported" in refusal_of(lambda: load_rgb(picture))
    refusal_of(lambda: tiny[1].encode_images([picture]))
    assert not started


SUPPORTED = ["JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF", "ICO"]


@pytest.mark.parametrize("file_format", SUPPORTED)
def test_supported_formats_are_opened_whatever_the_file_is_called(tmp_path, make_picture, file_format):
    content = encoded(make_picture(32, 32), file_format)
    path = tmp_path / "picture.eps"
    path.write_bytes(content)
    for image in (path, content, Image.open(BytesIO(content))):
        assert load_rgb(image).size == (32, 32)
    assert stored_size(path, SOURCE) == ((32, 32), None)


def test_a_format_that_a_plugin_registers_is_opened_if_it_is_listed(make_picture, monkeypatch):
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    plain = BytesIO()
    make_picture(8, 6).save(plain, "BMP")

    class HeifImageFile(BmpImagePlugin.BmpImageFile):
        format = "HEIF"

        def _open(self):
            self.fp = BytesIO(self.fp.read()[4:])
            super()._open()

    content = b"ftyp" + plain.getvalue()
    assert "in no format of pictures" in refusal_of(lambda: load_rgb(content))
    for name, is_opened in (("OTHER", False), ("HEIF", True)):
        Image.register_open(name, HeifImageFile, lambda prefix: prefix.startswith(b"ftyp"))
        if is_opened:
            assert load_rgb(content).size == (6, 8)
        else:
            refusal_of(lambda: load_rgb(content))


# ---------------------------------------------------------------------------------------------------------------------
# Real files
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def samples_folder():
    if not SAMPLES.is_dir():
        pytest.skip(f"the sample pictures are not here: no folder {SAMPLES}")
    return SAMPLES


def test_a_grey_photo_is_the_grey_of_the_coloured_one(samples_folder):
    colour, grey = (load_rgb(samples_folder / name) for name in ("color.jpg", "gray.jpg"))
    assert colour.size == grey.size
    red, green, blue = grey.split()
    assert red.tobytes() == green.tobytes() == blue.tobytes()
    difference = np.abs(np.asarray(colour.convert("L"), dtype=int) - np.asarray(red, dtype=int))
    assert difference.mean() < 5


def test_a_mask_file_keeps_its_indices_and_lies_as_its_photo_does(samples_folder, tmp_path):
    photo, mask = load_rgb(samples_folder / "color.jpg"), open_upright(samples_folder / "seg.png")
    indices = np.asarray(Image.open(samples_folder / "seg.png"))
    assert mask.mode == "P" and mask.size == photo.size
    for orientation in STORED_AS:
        file = lying(mask, orientation, "PNG")
        np.testing.assert_array_equal(np.asarray(open_upright(file)), indices)
