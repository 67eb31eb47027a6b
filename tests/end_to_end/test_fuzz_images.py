"""Random and damaged image files load as upright RGB of the declared size, or raise a short ValueError."""

import io

import numpy as np
import pytest
from fuzzing import budget, damaged, picture_bytes, result_or_refusal
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from gemma_lisa.datasets_builder.formats.coco_segmentation import photo_size
from gemma_lisa.datasets_builder.formats.jpeg_header import plain_size
from gemma_lisa.images_gemma_lisa import load_rgb, open_upright

pytestmark = [pytest.mark.fuzz, pytest.mark.filterwarnings("ignore")]

FORMATS = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "GIF": ["P", "L", "RGB"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "F", "I"],
    "WEBP": ["RGB", "RGBA"],
    "JPEG": ["L", "RGB", "CMYK"],
    "BMP": ["1", "L", "P", "RGB"],
    "PPM": ["1", "L", "RGB"],
}
SIDE = 24


def picture(mode: str, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE + 5, 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    return Image.fromarray(noise[..., :3]).convert(mode)


STORED = [
    picture_bytes(picture(mode, seed), format, **({"exif": turned} if format in ("JPEG", "PNG", "WEBP") else {}))
    for seed, orientation in ((0, 1), (1, 6))
    for turned in [Image.Exif()]
    for turned[ExifTags.Base.Orientation] in [orientation]
    for format, modes in FORMATS.items()
    for mode in modes
]
files = st.one_of(damaged(st.sampled_from(STORED)), st.binary(max_size=200))


@budget(3)
@given(files)
def test_any_file_is_upright_rgb_or_refused(content):
    found = result_or_refusal(lambda: load_rgb(content))
    if isinstance(found, ValueError):
        return
    assert found.mode == "RGB" and 0 < found.width * found.height
    again = open_upright(content)
    assert again.size == found.size
    assert load_rgb(content).tobytes() == found.tobytes()


@budget(2)
@given(files)
def test_the_size_in_the_header_is_that_of_the_image(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "photo"
    path.write_bytes(content)
    size = result_or_refusal(lambda: photo_size(path, "row"))
    opened = result_or_refusal(lambda: load_rgb(path))
    if not isinstance(size, ValueError) and not isinstance(opened, ValueError):
        assert size == (opened.height, opened.width)
    plain = plain_size(path)
    assert plain is None or isinstance(opened, ValueError) or plain == (opened.height, opened.width)


@budget(0.5)
@given(st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1), st.sampled_from(["PNG", "BMP", "GIF"]))
def test_a_declared_size_beyond_the_limit_is_refused_before_it_is_decoded(width, height, format):
    content = bytearray(picture_bytes(Image.new("L", (1, 1)), format))
    at, order = {"PNG": (16, "big"), "BMP": (18, "little"), "GIF": (6, "little")}[format]
    digits = 2 if format == "GIF" else 4
    content[at : at + digits] = (width % 2 ** (8 * digits - 1)).to_bytes(digits, order)
    content[at + digits : at + 2 * digits] = (height % 2 ** (8 * digits - 1)).to_bytes(digits, order)
    result_or_refusal(lambda: load_rgb(bytes(content)))


@budget()
@given(st.sampled_from(["RGB", "L", "RGBA", "LA", "P", "1", "CMYK"]), st.integers(0, 9), st.integers(0, 9))
def test_an_image_in_memory_is_not_changed(mode, orientation, seed):
    image = picture(mode, seed)
    image.getexif()[ExifTags.Base.Orientation] = orientation
    before = image.tobytes()
    rgb = load_rgb(image)
    assert image.tobytes() == before and image.mode == mode
    assert rgb.size == (image.size[::-1] if orientation in (5, 6, 7, 8) else image.size)
    buffer = io.BytesIO()
    rgb.save(buffer, "PNG")
