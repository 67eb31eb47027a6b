"""Results of Label Studio become objects: polygons, masks, boxes."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.formats.annotated import Notes
from gemma_lisa.datasets_builder.formats.coco_segmentation import segmentation_runs
from gemma_lisa.datasets_builder.formats.label_studio_regions import NO_LABEL, objects_of, regions_of
from gemma_lisa.datasets_builder.rows import decode_mask

SIZE = (60, 80)
BOX = {"x": 25, "y": 50, "width": 10, "height": 20}


def result(kind, value, number="a", **more):
    sides = {"original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0}
    return {"id": number, "type": kind, "from_name": kind, "to_name": "image", **sides, "value": value} | more


def read(*results, notes=None):
    regions = regions_of(list(results), "task 1", Path("1.jpg"), notes or Notes())
    return objects_of(regions, SIZE)


def bitmask(alpha, mode="RGBA", start="data:image/png;base64,"):
    picture = Image.new("RGBA", alpha.shape[::-1])
    picture.putalpha(Image.fromarray(alpha))
    png = io.BytesIO()
    picture.convert(mode).save(png, "PNG")
    return {"imageDataURL": start + base64.b64encode(png.getvalue()).decode(), "bitmasklabels": ["mug"]}


@pytest.mark.parametrize(
    ("rotation", "expected"),
    [(0, (20, 30, 8, 12)), (None, (20, 30, 8, 12)), (90, (8, 30, 12, 8)), (180, (12, 18, 8, 12))],
)
def test_a_rectangle_is_a_box_without_outline(rotation, expected):
    [one] = read(result("rectanglelabels", BOX | {"rotation": rotation, "rectanglelabels": ["mug"]}))
    assert one.segmentation is None and one.box == pytest.approx(expected) and one.name == "mug"


def test_an_ellipse_is_a_polygon_around_its_center():
    value = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 10, "rotation": 90, "ellipselabels": ["mug"]}
    [one] = read(result("ellipselabels", value))
    mask = decode_mask(segmentation_runs(one.segmentation, SIZE, ""), "")
    assert mask[12:48, 40].all() and not mask[30, :33].any() and abs(mask.sum() - np.pi * 20 * 6) < 15


def test_each_label_is_an_object():
    value = {"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": ["mug", "cup", "mug"]}
    objects = read(result("polygonlabels", value))
    assert [one.name for one in objects] == ["mug", "cup"]
    assert objects[0].segmentation == objects[1].segmentation == [[0, 0, 40, 0, 40, 30]]


def test_answers_about_a_region_are_fields_or_labels():
    points = {"points": [[0, 0], [50, 0], [50, 50]]}
    parts = [
        result("polygon", points),
        result("labels", points | {"labels": ["mug"]}),
        result("choices", points | {"choices": ["red", "big"]}, from_name="look"),
        result("rating", points | {"rating": 4}, from_name="stars"),
        result("textarea", {"text": ["x"], "textarea": []}, from_name="note"),
    ]
    [one] = read(*parts)
    assert one.name == "mug" and one.fields == {"look": "red, big", "stars": "4"}


def test_a_bitmask_is_its_opaque_pixels():
    alpha = np.zeros(SIZE, dtype=np.uint8)
    alpha[10:20, 5:9], alpha[30:, 30:] = 255, 100
    [one] = read(result("bitmasklabels", bitmask(alpha)))
    mask = decode_mask(one.segmentation, "")
    assert one.error is None and mask.sum() == 40 and mask[10:20, 5:9].all()


def test_results_without_an_area_are_counted():
    notes, path = Notes(), Path("1.jpg")
    results = [
        result("keypointlabels", {"x": 3, "y": 4, "width": 1, "keypointlabels": ["mug"]}, "a"),
        result("vectorlabels", {"vertices": [], "closed": True, "vectorlabels": ["mug"]}, "b"),
        result("choices", {"choices": ["x"]}, "c"),
        result("labels", {"start": 0, "end": 3, "labels": ["x"]}, "d"),
        {"type": "relation", "from_id": "a", "to_id": "b", "labels": []},
        result("polygonlabels", None, "e"),
        result("rectanglelabels", {"height": 3}, "f"),
        result(None, {"choices": ["x"]}, ["g"]),
    ]
    assert read(*results, notes=notes) == []
    kinds = ["keypointlabels", "vectorlabels", "choices", "labels", "relation", "polygonlabels", "rectanglelabels"]
    assert list(notes.cases) == [f"skipped results of type {kind}, which is not supported" for kind in [*kinds, None]]
    assert all(cases[0].photo == path for cases in notes.cases.values())


@pytest.mark.parametrize("labels", [None, [], [""], [3], {}, "mug"])
def test_regions_without_a_label_are_counted(labels):
    notes = Notes()
    objects = read(result("rectanglelabels", BOX | {"rectanglelabels": labels}), notes=notes)
    assert len(objects) + len(notes.cases[NO_LABEL]) == 1 and bool(objects) == (labels == "mug")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"points": 3}, "its points must be a list of pairs, got 3"),
        ({"points": [[1, 2], [3]]}, "its points must be a list of pairs"),
        ({"points": [[1, 2], [3, "4"]]}, "a coordinate must be a number of pixels, got '4'"),
        ({"points": [[1, 2], [3, float("nan")]]}, "a coordinate must be a number of pixels, got nan"),
        (BOX | {"x": None}, "a coordinate must be a number of pixels, got None"),
        (BOX | {"rotation": "x"}, "a coordinate must be a number of pixels, got 'x'"),
        ({"x": 1, "y": 2, "radiusX": -1, "radiusY": 3}, "the radii of an ellipse must be positive"),
        ({"rle": [1, 2, 3], "format": "rle"}, "its rle has 3 bytes"),
        ({"rle": [300]}, "its rle must be a list of bytes"),
        ({"rle": {"0": 1}}, "its rle has 0 bytes"),
        ({"rle": b"", "format": "png"}, "the format of its mask must be rle, got 'png'"),
        ({"imageDataURL": 3}, "its mask must be a PNG in base64, got 3"),
        ({"imageDataURL": "data:image/png;base64,?"}, "its mask is not a PNG in base64"),
        ({"imageDataURL": "data:image/png;base64,aaaa"}, "its mask"),
        (
            bitmask(np.zeros((60, 81), dtype=np.uint8)),
            "its mask is 81 x 60 pixels .width x height., but",
        ),
    ],
)
def test_a_bad_region_is_an_error_of_one_object(value, reason):
    bad, good = read(result("labels", value | {"labels": ["mug"]}), result("labels", BOX | {"labels": ["x"]}, "b"))
    with pytest.raises(ValueError, match=rf"^task 1: result 1 \(\w+ mug\): {reason}.*; correct it in Label Studio"):
        raise bad.error
    assert good.error is None and "\n" not in str(bad.error)


def test_a_label_with_half_a_character_is_an_error():
    [one] = read(result("labels", BOX | {"labels": ["\ud83d"]}))
    assert "half of a character" in str(one.error)
