"""The size of a plain JPEG equals that of Pillow; other files are read by Pillow."""

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.formats.jpeg_header import plain_size, size_by_pillow, stored_size

EXIF_ORIENTATION = 0x0112
XMP = b'<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"></x:xmpmeta>'


def save(path, mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def spoil(path, cut=0, behind=b""):
    """The file without its last bytes, or with more of them."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut] + behind)
    return path


def exif(orientation):
    tags = Image.Exif()
    tags[EXIF_ORIENTATION] = orientation
    return tags


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": "L"},
        {"mode": "CMYK"},
        {"progressive": True},
        {"optimize": True, "quality": 20, "subsampling": 0},
        {"comment": "x" * 60_000},
        {"icc_profile": bytes(200_000)},  # in several segments
    ],
)
def test_the_size_of_a_plain_jpeg_equals_that_of_pillow(tmp_path, options):
    path = save(tmp_path / "a.jpg", **options)
    with Image.open(path) as image:
        assert plain_size(path) == (image.height, image.width) == (30, 50)
        assert stored_size(path, "here") == size_by_pillow(path) == ((30, 50), None)
        assert stored_size(path.read_bytes(), "here") == ((30, 50), None)


@pytest.mark.parametrize("options", [{"exif": exif(1)}, {"exif": exif(6)}, {"xmp": XMP}])
def test_a_jpeg_that_can_have_an_orientation_is_read_by_pillow(tmp_path, options):
    assert plain_size(save(tmp_path / "a.jpg", **options)) is None


def test_a_file_of_another_format_is_read_by_pillow(tmp_path):
    assert plain_size(save(tmp_path / "a.png")) is None
    (tmp_path / "a.txt").write_text("no picture")
    assert plain_size(tmp_path / "a.txt") is None


def test_a_truncated_header_is_read_by_pillow(tmp_path):
    whole = save(tmp_path / "a.jpg").read_bytes()
    scan = whole.index(b"\xff\xda")
    cut = tmp_path / "cut.jpg"
    for length in range(scan):
        cut.write_bytes(whole[:length])
        assert plain_size(cut) is None, length


@pytest.mark.parametrize(
    ("place", "value"),
    [(-4, 0x00), (0, 12), (5, 2)],  # no marker; 12 bits per channel; two channels
)
def test_an_unusual_frame_is_read_by_pillow(tmp_path, place, value):
    content = bytearray(save(tmp_path / "a.jpg").read_bytes())
    content[content.index(b"\xff\xc0") + 4 + place] = value
    (tmp_path / "b.jpg").write_bytes(content)
    assert plain_size(tmp_path / "b.jpg") is None


def test_an_image_without_pixels_is_read_by_pillow(tmp_path):
    content = bytearray(save(tmp_path / "a.jpg").read_bytes())
    height = content.index(b"\xff\xc0") + 5
    content[height : height + 2] = b"\0\0"
    (tmp_path / "b.jpg").write_bytes(content)
    assert plain_size(tmp_path / "b.jpg") is None


@pytest.mark.parametrize("options", [{}, {"exif": exif(6)}, {"progressive": True}])
def test_a_truncated_jpeg_is_refused_and_trailing_data_is_accepted(tmp_path, options):
    orientation = 6 if "exif" in options else None
    path = save(tmp_path / "a.jpg", **options)
    assert stored_size(path, "here") == ((30, 50), orientation)
    assert stored_size(spoil(path, behind=b"a camera's own"), "here") == ((30, 50), orientation)
    cut = spoil(save(tmp_path / "b.jpg", **options), cut=200)
    with pytest.raises(ValueError, match="^here: the image .*b.jpg cannot be read .*; replace or remove it.$"):
        stored_size(cut, "here")


def test_a_complete_jpeg_is_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", None)
    for options in ({}, {"exif": exif(6)}):
        assert stored_size(save(tmp_path / "a.jpg", **options), "here")[0] == (30, 50)


def test_other_images_are_decoded(tmp_path):
    assert stored_size(save(tmp_path / "a.png"), "here") == ((30, 50), None)
    with pytest.raises(ValueError, match="a.png cannot be read"):
        stored_size(spoil(tmp_path / "a.png", cut=200), "here")
    with pytest.raises(ValueError, match="empty.jpg cannot be read"):
        (tmp_path / "empty.jpg").write_bytes(b"")
        stored_size(tmp_path / "empty.jpg", "here")
