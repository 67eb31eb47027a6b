"""Image files that are an error, with a message of one line, and supported formats."""

import ast
import struct
import warnings
from io import BytesIO

import numpy as np
import pytest
from picture_files import png, refusal_of, saved
from PIL import BmpImagePlugin, GifImagePlugin, Image
from project_files import ROOT, files_of

from gemma_lisa.datasets_builder.formats.jpeg_header import stored_size
from gemma_lisa.datasets_builder.rows import load_image
from gemma_lisa.images_gemma_lisa import (
    MAX_IMAGE_PIXELS,
    MAX_IMAGE_PIXELS_VARIABLE,
    load_rgb,
    open_upright,
)

SOURCE = "some_set/val/000007"
EXIF_DESCRIPTION = 0x010E


# ---------------------------------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------------------------------
SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="8" height="6"></svg>'
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    "content, error_text",
    [
        (b"", "cannot be read (the file is empty; download it again or remove it)"),
        (b"this is no picture\n", "its image format is not supported; save it as PNG or JPEG"),
        (SVG, "it is a vector graphic, SVG or PostScript; save it as PNG"),
        (POSTSCRIPT, "it is a vector graphic, SVG or PostScript; save it as PNG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is HEIC, which needs pillow-heif, see docs/images.md; save it as"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heix", "it is HEIC, which needs pillow-heif"),
        (b"\0\0\0\x14ftypmp42\0\0\0\0isom", "its image format is not supported"),
    ],
)
def test_file_that_is_not_an_image_is_an_error_with_advice(tiny, tmp_path, content, error_text):
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    for call in (lambda: load_rgb(path), lambda: tiny[1].encode_images([str(path)])):
        line = refusal_of(call)
        assert line.startswith(str(path)) and error_text in line
    assert refusal_of(lambda: load_rgb(content)).startswith("the image cannot be read")
    assert refusal_of(lambda: load_image({"bytes": content, "path": "x.png"}, SOURCE)).startswith(
        f"{SOURCE}: the image x.png"
    )


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP"])
def test_truncated_file_is_an_error(tmp_path, make_picture, file_format):
    whole = saved(make_picture(64, 64), file_format)
    path = tmp_path / "picture"
    for part in (0.05, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * part)])
        line = refusal_of(lambda: load_rgb(path))
        assert line.startswith(str(path)) and "cannot be read" in line
        try:  # a PIL image that is opened, but not decoded yet
            lazy = Image.open(BytesIO(path.read_bytes()))
        except Exception:
            continue
        assert "cannot be read" in refusal_of(lambda lazy=lazy: load_rgb(lazy))


def test_missing_palette_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "noplte.png"
    path.write_bytes(png(8, 6, bytes(9 * 6), colour_type=3))
    line = refusal_of(lambda: load_rgb(path))
    assert line.startswith(f"{path} cannot be read (its palette is missing)")
    assert str(path) in refusal_of(lambda: stored_size(path, SOURCE))
    assert SOURCE in refusal_of(lambda: load_image(str(path), SOURCE))
    assert np.asarray(open_upright(path)).shape == (6, 8)  # as a label map, the indices are valid


@pytest.mark.parametrize("step", ["load", "getexif", "convert"])
@pytest.mark.parametrize(
    "error", [AssertionError(), KeyError(3), OSError("two\nlines"), MemoryError(), struct.error("x" * 10_000)]
)
def test_every_exception_of_pillow_becomes_one_line_with_the_file_name(tmp_path, monkeypatch, step, error):
    path = tmp_path / "picture.gif"
    path.write_bytes(saved(Image.new("P", (8, 6)), "GIF"))

    def fail(self, *args, **options):
        raise error

    monkeypatch.setattr(Image.Image if step == "convert" else GifImagePlugin.GifImageFile, step, fail)
    line = refusal_of(lambda: load_rgb(path))
    assert line.startswith(f"{path} cannot be read (") and len(line) < len(str(path)) + 300
    if step != "convert":  # reading the size does not convert
        assert str(path) in refusal_of(lambda: stored_size(path, SOURCE))


def test_line_break_in_a_file_name_does_not_break_the_message(tmp_path):
    path = tmp_path / "two\nlines.png"
    path.write_bytes(b"no picture")
    assert "two lines.png" in refusal_of(lambda: load_rgb(path))


def test_missing_file_or_wrong_type_is_an_error(tmp_path):
    for path in (tmp_path / "missing.png", tmp_path, "https://example.com/cat.png"):
        assert refusal_of(lambda path=path: load_rgb(path)).startswith(f"{path} does not exist")
    for value in (None, 7, np.zeros((6, 8, 3), np.uint8), {"bytes": None}):
        assert "must be a PIL image, the path of an image file or its bytes" in refusal_of(
            lambda value=value: load_rgb(value)
        )


def test_image_with_too_many_pixels_is_an_error_before_decoding(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(30_000, 30_000, b"\0"))
    line = refusal_of(lambda: load_rgb(path))
    assert line.startswith(f"{path} has more than 100,000,000 pixels") and MAX_IMAGE_PIXELS_VARIABLE in line
    assert "more than" in refusal_of(lambda: load_rgb(png(10_001, 10_000, b"\0")))
    assert "more than" in refusal_of(lambda: load_rgb(Image.new("1", (10_001, 10_000))))
    assert "cannot be read" in refusal_of(lambda: load_rgb(png(10_000, 10_000, b"\0", depth=1, colour_type=0)))


def test_image_within_the_pixel_limit_gives_no_warning(monkeypatch, caplog):
    """95 million pixels, for which Pillow itself would warn."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows := 89_478_485)
    width, height = 10_000, 9_500
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = open_upright(png(width, height, bytes((1 + width // 8) * height), depth=1, colour_type=0))
    assert opened.size == (width, height) and not caplog.records
    assert pillows < width * height <= MAX_IMAGE_PIXELS
    refusal_of(lambda: open_upright(b""))
    assert pillows == Image.MAX_IMAGE_PIXELS  # the limit for other code is unchanged


def test_pixel_limit_can_be_set_and_applies_to_embedded_images(monkeypatch, make_picture):
    hidden = bytearray(saved(make_picture(60, 60), "ICO", sizes=[(60, 60)]))
    hidden[6:8] = bytes([16, 16])  # the directory declares 16 × 16
    monkeypatch.setenv(MAX_IMAGE_PIXELS_VARIABLE, "400")
    assert load_rgb(make_picture(20, 20)).size == (20, 20)
    for image in (make_picture(20, 21), saved(make_picture(20, 21)), saved(make_picture(60, 60)), bytes(hidden)):
        assert "more than 400 pixels" in refusal_of(lambda image=image: load_rgb(image))
    monkeypatch.setenv(MAX_IMAGE_PIXELS_VARIABLE, "3600")
    assert load_rgb(saved(make_picture(60, 60))).size == (60, 60)
    for wrong in ("many", "0", "1e8", ""):
        monkeypatch.setenv(MAX_IMAGE_PIXELS_VARIABLE, wrong)
        assert MAX_IMAGE_PIXELS_VARIABLE in refusal_of(lambda: load_rgb(make_picture(20, 20)))


def test_warning_of_pillow_is_logged_with_the_file_name(tmp_path, caplog):
    exif = Image.Exif()
    exif[EXIF_DESCRIPTION] = "a text that breaks off"
    path = tmp_path / "photo.jpg"
    path.write_bytes(saved(Image.new("RGB", (8, 6), (250, 10, 10)), "JPEG", exif=exif.tobytes()[:-2]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_rgb(path)
        load_rgb(path)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path} was read with a warning from Pillow: Truncated")


# ---------------------------------------------------------------------------------------------------------------------
# Formats
# ---------------------------------------------------------------------------------------------------------------------
OPENS_FILES = {"PIL.Image.open", "PIL.ImageFile.Parser", "PIL.ImageGrab", "transformers.image_utils.load_image"}


def opened_by(path):
    """Return the lines at which a Python file opens images itself."""
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


def test_only_one_function_of_the_project_opens_image_files(tmp_path):
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
    files = [path for path in files_of(ROOT) if path.endswith(".py") and not path.startswith("tests/")]
    assert len(files) > 50
    found = {path: len(lines) for path in files if (lines := opened_by(ROOT / path))}
    assert found == {name: 1 for name in ("images_gemma_lisa.py", "examples/shapes-tiny/images_gemma_lisa.py")}


def field(record, number, data):
    """Return a field of an IPTC file."""
    return bytes([0x1C, record, number]) + struct.pack(">H", len(data)) + data


def iptc_with(content):
    """Return an IPTC file of 64 × 64 pixels that contains a file of another format."""
    side = struct.pack(">H", 64)
    return (
        field(3, 60, b"\1\0") + field(3, 20, side) + field(3, 30, side) + field(3, 120, b"\5") + field(8, 10, content)
    )


WMF = b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<hhhhH", 0, 0, 64, 64, 72) + bytes(6) + b"\1\0\t\0" + bytes(40)
OTHER_FORMATS = {
    "EPS": POSTSCRIPT,
    "EPS with a preview": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(POSTSCRIPT)) + bytes(20) + POSTSCRIPT,
    "IPTC that holds EPS": iptc_with(POSTSCRIPT),
    "IPTC that holds PNG": iptc_with(saved(Image.new("L", (64, 64)))),
    "WMF": WMF,
    "GRIB": b"GRIB\0\0\0\1" + bytes(40),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(40),
    "PDF": b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
    "XPM": b'/* XPM */\nstatic char *a[] = {\n"1 1 1 1",\n"a c #000000",\n"a"\n};\n',
    "TGA": saved(Image.new("RGB", (8, 6)), "TGA"),
    "PCX": saved(Image.new("RGB", (8, 6)), "PCX"),
    "SPIDER": saved(Image.new("F", (8, 6)), "SPIDER"),
}


@pytest.fixture
def started(tmp_path, monkeypatch):
    """The names of the programs that were started. Ghostscript seems to be installed."""
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
def test_unsupported_formats_are_an_error_and_start_no_program(tmp_path, started, kind, suffix):
    content, path = OTHER_FORMATS[kind], tmp_path / f"picture{suffix}"
    path.write_bytes(content)
    for call in (
        *(lambda: load_rgb(path), lambda: load_rgb(content), lambda: open_upright(path)),
        *(lambda: load_image({"bytes": content, "path": None}, SOURCE), lambda: stored_size(path, SOURCE)),
    ):
        assert "cannot be read" in refusal_of(call)
    assert not started


@pytest.mark.parametrize("kind", ["EPS", "IPTC that holds EPS", "WMF", "TGA"])
def test_pil_image_of_an_unsupported_format_is_an_error_before_decoding(tiny, started, kind):
    picture = Image.open(BytesIO(OTHER_FORMATS[kind]))
    picture.load = lambda: pytest.fail("the picture was decoded")
    assert f"the format {kind.split()[0]} is not supported" in refusal_of(lambda: load_rgb(picture))
    refusal_of(lambda: tiny[1].encode_images([picture]))
    assert not started


SUPPORTED = ["JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF", "ICO"]


@pytest.mark.parametrize("file_format", SUPPORTED)
def test_supported_formats_are_opened_with_any_file_name(tmp_path, make_picture, file_format):
    content = saved(make_picture(32, 32), file_format)
    path = tmp_path / "picture.eps"
    path.write_bytes(content)
    for image in (path, content, Image.open(BytesIO(content))):
        assert load_rgb(image).size == (32, 32)
    assert stored_size(path, SOURCE) == ((32, 32), None)


def test_format_of_a_plugin_is_opened_if_it_is_supported(make_picture, monkeypatch):
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    plain = BytesIO()
    make_picture(8, 6).save(plain, "BMP")

    class HeifImageFile(BmpImagePlugin.BmpImageFile):
        format = "HEIF"

        def _open(self):
            self.fp = BytesIO(self.fp.read()[4:])
            super()._open()

    content = b"ftyp" + plain.getvalue()
    assert "image format is not supported" in refusal_of(lambda: load_rgb(content))
    for name, is_opened in (("OTHER", False), ("HEIF", True)):
        Image.register_open(name, HeifImageFile, lambda prefix: prefix.startswith(b"ftyp"))
        if is_opened:
            assert load_rgb(content).size == (6, 8)
        else:
            refusal_of(lambda: load_rgb(content))
