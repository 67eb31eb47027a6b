"""Regions of VIA become objects with outlines."""

import math

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.formats.annotated import AnnotatedImage, Notes, loaded
from gemma_lisa.datasets_builder.formats.coco_segmentation import segmentation_runs
from gemma_lisa.datasets_builder.formats.via_regions import RECTANGLES, is_empty, objects_of
from gemma_lisa.datasets_builder.rows import decode_mask

SIZE = (60, 80)
POLYGON = {"name": "polygon", "all_points_x": [1, 7, 7.5], "all_points_y": [1, 1, 5]}
EXIF_ORIENTATION = 0x0112


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "1.jpg")
    return AnnotatedImage(tmp_path / "1.jpg", "photo 1", "1.jpg", loaded([]))


def read(image, *shapes, value="mug", notes=None, **others):
    regions = [{"shape_attributes": shape, "region_attributes": {"kind": value, **others}} for shape in shapes]
    return objects_of(regions, "kind", {}, image, notes or Notes())


def pixels(one):
    assert one.error is None, one.error
    return decode_mask(segmentation_runs(one.segmentation, SIZE, ""), "")


def test_a_polygon_is_its_points(image):
    [one] = read(image, POLYGON, color={"red": True, "big": True, "x": False}, note="")
    assert one.segmentation == [[1, 1, 7, 1, 7.5, 5]] and one.name == "mug" and one.box is None
    assert one.fields == {"color": "red, big", "note": ""} and one.where == "photo 1: region 1 (polygon mug)"


def test_a_rectangle_is_a_polygon_and_counted(image):
    notes = Notes()
    inside, beyond = read(
        image,
        {"name": "rect", "x": 10, "y": 20, "width": 30, "height": 5},
        {"name": "rect", "x": -10, "y": 50, "width": 30, "height": 50},
        notes=notes,
    )
    assert pixels(inside).sum() == 150 and pixels(inside)[20:25, 10:40].all()
    assert pixels(beyond).sum() == 200 and pixels(beyond)[50:, :20].all()
    assert [case.photo for case in notes.cases[RECTANGLES]] == [image.path] * 2


def test_circles_and_ellipses_are_polygons(image):
    circle = {"name": "circle", "cx": 40, "cy": 30, "r": 20}
    corner = {"name": "circle", "cx": 80, "cy": 0, "r": 20.5}
    ellipse = {"name": "ellipse", "cx": 40, "cy": 30, "rx": 25, "ry": 5}
    rotated = ellipse | {"theta": math.pi / 2}
    found = [pixels(one) for one in read(image, circle, corner, ellipse, rotated)]
    areas = np.pi * np.array([400, 20.5**2 / 4, 125, 125])
    assert (np.abs([mask.sum() for mask in found] - areas) < 25).all()
    assert found[2][30, 17:63].all() and found[3][7:53, 40].all() and found[1][0, 79]


def test_an_outline_on_a_rotated_photo_is_not_clipped(image):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    Image.new("RGB", SIZE[::-1]).save(image.path, exif=exif)
    [one] = read(image, {"name": "rect", "x": 0, "y": 60, "width": 60, "height": 20})
    assert one.segmentation == [[0, 60, 60, 60, 60, 80, 0, 80]]


def test_a_damaged_photo_is_no_error_of_a_region(image):
    image.path.write_bytes(b"x")
    [one] = read(image, {"name": "rect", "x": 0, "y": 6, "width": 6, "height": 2})
    assert one.error is None


def test_each_checked_class_is_an_object(image):
    first, second = read(image, POLYGON, value={"mug": True, "cup": True, "plate": False})
    assert (first.name, second.name) == ("mug", "cup") and first.segmentation == second.segmentation


def test_shapes_without_an_area_are_counted(image):
    notes = Notes()
    shapes = [{"name": "point", "cx": 1, "cy": 2}, {"name": "polyline", "all_points_x": [1], "all_points_y": [2]}]
    assert read(image, *shapes, notes=notes) == []
    assert list(notes.cases) == [
        f"skipped regions of shape {kind}, which has no area" for kind in ("point", "polyline")
    ]


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"name": "cuboid"}, "shape 'cuboid' is not supported; draw a polygon"),
        ({}, "shape None is not supported"),
        (3, "shape None is not supported"),
        ({"name": "polygon"}, "all_points_x and all_points_y must be lists of the same length"),
        (POLYGON | {"all_points_x": [1, 2]}, "all_points_x and all_points_y must be lists of the same length"),
        (POLYGON | {"all_points_x": [1, None, 3]}, "a coordinate must be a number of pixels, got None"),
        (POLYGON | {"all_points_x": [1, math.nan, 3]}, "a coordinate must be a number of pixels, got nan"),
        ({"name": "rect", "x": 1}, "a coordinate must be a number of pixels, got None"),
        ({"name": "circle", "cx": 1, "cy": 1, "r": 0}, "the radii of an ellipse must be positive"),
        ({"name": "circle", "cx": 1, "cy": 1, "r": "3"}, "a coordinate must be a number of pixels, got '3'"),
        ({"name": "ellipse", "cx": 1, "cy": 1, "rx": 1, "ry": 1, "theta": "x"}, "a coordinate must be a number"),
    ],
)
def test_a_bad_shape_is_an_error_of_one_object(image, shape, reason):
    bad, good = read(image, shape, POLYGON)
    message = str(bad.error)
    assert reason in message and message.startswith("photo 1: region 1 (") and "\n" not in message
    assert good.error is None


@pytest.mark.parametrize("value", ["", None, {}, {"mug": False}, [], True, "\ud83d"])
def test_a_region_without_a_class_is_an_error_of_one_object(image, value):
    [one] = read(image, POLYGON, value=value)
    assert one.error is not None and is_empty(value) == (value != "\ud83d")


def test_a_region_that_is_none_is_an_error(image):
    [one] = objects_of([3], "kind", {}, image, Notes())
    assert "its attribute 'kind' is empty" in str(one.error)
