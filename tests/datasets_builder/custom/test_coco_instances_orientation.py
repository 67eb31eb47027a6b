"""A user's own photos with COCO JSON: masks match the object for every EXIF orientation."""

import numpy as np
import pytest
from coco_photos import CORNER, HEIGHT, LOW, WIDTH, Photos, annotation, box_mask, masks_of
from PIL import Image, ImageOps

from gemma_lisa.datasets_builder.rows import encode_mask, load_image

# raised inside pycocotools with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
EXIF_ORIENTATION = 0x0112


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path):
    return Photos(tmp_path / "photos")


def with_orientation(path, orientation, file_format):
    """Write a photo with an EXIF orientation: a white box at LOW in the stored pixels, on black."""
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    picture.paste("white", LOW)
    exif = picture.getexif()
    exif[EXIF_ORIENTATION] = orientation
    picture.save(path, format=file_format, exif=exif, **({"quality": 100} if file_format == "JPEG" else {}))
    return picture


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
@pytest.mark.parametrize(  # below 5 both frames have the same size, and masks are taken as upright
    ("orientation", "frame"), [*((at, "upright") for at in range(1, 9)), *((at, "stored") for at in range(5, 9))]
)
def test_masks_match_the_object_for_every_orientation_of_the_photo(photos, file_format, orientation, frame):
    path = photos.root / "images/1.png"
    with_orientation(path, orientation, file_format)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("L")) > 127
    mask = encode_mask(upright if frame == "upright" else box_mask(*LOW))
    photos.content["images"][0] |= {"height": mask["size"][0], "width": mask["size"][1]}
    photos.content["annotations"] = [annotation(1, mask)]
    [row] = photos.load()
    np.testing.assert_array_equal(masks_of(row)["the trash can"], [upright])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_match_the_object_in_a_tiff_for_every_orientation(photos, orientation):
    path = photos.root / "images/1.png"
    with_orientation(path, orientation, "TIFF")  # Pillow applies the orientation while reading
    upright = np.asarray(load_image(path, "a photo").convert("L")) > 127
    mask = encode_mask(upright)
    photos.content["images"][0] |= {"height": mask["size"][0], "width": mask["size"][1]}
    photos.content["annotations"] = [annotation(1, mask)]
    np.testing.assert_array_equal(masks_of(photos.load()[0])["the trash can"], [upright])


def test_masks_of_square_photos_are_taken_as_upright(photos):
    path = photos.root / "images/1.png"
    picture = Image.new("RGB", (WIDTH, WIDTH))
    exif = picture.getexif()
    exif[EXIF_ORIENTATION] = 6
    picture.save(path, exif=exif)
    photos.content["images"][0]["height"] = WIDTH
    found = masks_of(photos.load()[0])
    np.testing.assert_array_equal(found["the cat"], [box_mask(*CORNER, size=(WIDTH, WIDTH))])
