"""Images that are decoded when needed, and large JPEG files at a reduced size for the encoders."""

import io

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.images_gemma_lisa import TooManyPixels, load_rgb
from gemma_lisa.lazy_images_gemma_lisa import REDUCED_MARGIN, LazyImage, as_lazy, reduction_factor

LARGE = (480, 400)  # (width, height); at half the size, enough for a side of 128
TARGETS = [(128, 128), (128, 107)]
ORIENTATION = 0x0112


def picture(size, sharp=False):
    """Return an image with smooth noise, or with stripes 1.5 pixels wide, which are the hardest to resize."""
    if sharp:
        x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
        grey = ((x * np.cos(0.3) + y * np.sin(0.3)) % 3 < 1.5) * np.uint8(255)
        return Image.fromarray(grey).convert("RGB")
    coarse = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def stored(image, format="JPEG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize(
    ("size", "sizes", "factor"),
    [
        ((640, 480), [(896, 896), (1024, 768)], 1),
        ((2000, 1500), [(896, 896), (1024, 768)], 1),
        ((2687, 3200), [(896, 896)], 1),
        ((2688, 3200), [(896, 896)], 2),
        ((4000, 3000), [(896, 896), (1024, 768)], 2),
        ((8000, 6000), [(896, 896), (1024, 768)], 4),
        ((20000, 12000), [(896, 896), (1024, 614)], 8),
        ((20000, 100), [(896, 896), (1024, 5)], 1),
    ],
)
def test_factor_leaves_the_margin_on_every_side(size, sizes, factor):
    assert reduction_factor(size, sizes) == factor
    assert factor == 1 or all(size[axis] / factor >= REDUCED_MARGIN * one[axis] for one in sizes for axis in (0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("as_path", [True, False])
def test_size_is_that_of_the_whole_upright_image(tmp_path, orientation, as_path):
    content = stored(picture(LARGE), exif=turned(orientation))
    (tmp_path / "photo.jpg").write_bytes(content)
    lazy = LazyImage(tmp_path / "photo.jpg" if as_path else content)
    whole, reduced = load_rgb(content), lazy.load_for(TARGETS)
    assert (lazy.width, lazy.height) == lazy.size == whole.size
    assert reduced.size == (whole.width // 2, whole.height // 2) and lazy.load().tobytes() == whole.tobytes()
    half = np.asarray(whole.reduce(2), dtype=int)
    assert np.abs(np.asarray(reduced, dtype=int) - half).mean() < 2  # of 0 to 255, also for every orientation


def test_header_of_a_jpeg_is_enough_for_its_size():
    content = stored(picture(LARGE), quality=95)
    assert LazyImage(content[: len(content) // 2]).size == LARGE
    with pytest.raises(ValueError, match="^photo 7 cannot be read .*truncated"):
        LazyImage(content[: len(content) // 2], "photo 7").load_for(TARGETS)


@pytest.mark.parametrize("orientation", [1, 6])
def test_other_formats_are_decoded_whole(orientation):
    content = stored(picture(LARGE), "PNG", exif=turned(orientation))
    lazy = LazyImage(content)
    assert lazy.size == (LARGE if orientation == 1 else LARGE[::-1])
    assert lazy.load_for(TARGETS) is lazy.load() and lazy.load().tobytes() == load_rgb(content).tobytes()


@pytest.mark.parametrize(("sharp", "largest", "mean"), [(False, 16, 0.8), (True, 36, 16)])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_difference_to_the_whole_image_has_the_stated_bound(sharp, largest, mean, subsampling):
    size = tuple(round(2 * REDUCED_MARGIN * side) for side in TARGETS[0])
    lazy = LazyImage(stored(picture(size, sharp), quality=92, subsampling=subsampling))
    assert lazy.load_for(TARGETS[:1]).size == (size[0] // 2, size[1] // 2)
    found, expected = (
        np.asarray(image.resize(TARGETS[0], Image.Resampling.BILINEAR), dtype=int)
        for image in (lazy.load_for(TARGETS[:1]), lazy.load())
    )
    difference = np.abs(found - expected)
    assert 0 < difference.max() <= largest and difference.mean() <= mean


def test_pil_image_that_is_not_decoded_gives_the_pixels_of_its_file():
    content = stored(picture(LARGE))
    opened = Image.open(io.BytesIO(content))
    assert LazyImage(opened).load_for(TARGETS).tobytes() == LazyImage(content).load_for(TARGETS).tobytes()
    assert opened.size == LARGE and opened.tobytes() == load_rgb(content).tobytes()  # not changed, and still open


def test_decoded_or_reduced_pil_image_is_used_as_it_is():
    content = stored(picture(LARGE))
    decoded, reduced = Image.open(io.BytesIO(content)), Image.open(io.BytesIO(content))
    decoded.load()
    reduced.draft(None, (LARGE[0] // 4, LARGE[1] // 4))
    assert LazyImage(decoded).load_for(TARGETS).size == LARGE
    assert LazyImage(reduced).size == (LARGE[0] // 4, LARGE[1] // 4)


def test_limit_of_pixels_is_checked_in_the_header():
    with pytest.raises(TooManyPixels, match="more than 100 pixels"):
        _ = LazyImage(stored(picture(LARGE)), limit=100).size


def test_wrong_inputs_are_refused_with_their_name(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        _ = LazyImage(tmp_path / "absent.jpg").size
    with pytest.raises(ValueError, match="must be a PIL image"):
        _ = LazyImage(3).size


def test_a_lazy_image_stays_itself():
    lazy = LazyImage(picture(LARGE))
    assert as_lazy(lazy) is lazy and as_lazy(lazy.image).size == LARGE
