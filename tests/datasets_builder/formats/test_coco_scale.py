"""Coordinates of COCO files that are fractions, percent or those of smaller copies."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.formats.annotated import AnnotatedImage, Notes
from gemma_lisa.datasets_builder.formats.coco_files import _packed
from gemma_lisa.datasets_builder.formats.coco_scale import AS_PERCENT, SMALLER, check_scale


def found(polygons, size=(600, 900), path=Path("1.jpg")):
    """Return the kinds of notes about photos with one polygon each."""
    images, annotations, notes = [], {}, Notes()
    for number, polygon in enumerate(polygons):
        images.append(AnnotatedImage(path, f"image {number}", "1.jpg", list, size, fields={"id": number}))
        annotations[number] = [_packed({"segmentation": [polygon]})]
    check_scale(Path("a.json"), images, annotations, notes)
    return {kind: len(cases) for kind, cases in notes.cases.items()}


def box(left, top, right, bottom):
    return [left, top, right, top, right, bottom, left, bottom]


def test_fractions_are_an_error_that_says_how_to_convert_them():
    with pytest.raises(ValueError, match="a.json: all coordinates .* fractions from 0 to 1, first: image 0; COCO"):
        found([box(0.1, 0.2, 0.9, 1), box(0, 0, 1, 1)])


def test_coordinates_up_to_100_in_large_photos_are_counted():
    assert found([box(10, 20, 90, 100), box(1, 1, 5, 5)]) == {AS_PERCENT: 2}
    assert found([box(10, 20, 90, 100), box(1, 1, 101, 5)]) == {}
    assert found([box(10, 20, 90, 100)], size=(100, 140)) == {}


def test_the_size_of_the_photo_is_used_if_none_is_stated(tmp_path):
    Image.fromarray(np.zeros((200, 300, 3), np.uint8)).save(tmp_path / "1.jpg")
    assert found([box(10, 20, 90, 100)], None, tmp_path / "1.jpg") == {AS_PERCENT: 1}
    assert found([box(10, 20, 90, 100)], None, tmp_path / "missing.jpg") == {}


def test_polygons_of_half_the_size_are_counted_if_there_are_many():
    half = [box(200, 100, 440, 290 - number) for number in range(20)]
    assert found(half) == {SMALLER: 20}
    assert found(half[:10]) == {} and found([*half, box(400, 100, 700, 200)]) == {}


def test_rle_and_damaged_polygons_are_no_evidence():
    assert found([{"size": [1, 1], "counts": "0"}, ["a"], [1, 2], [1, 1, 1, 1, 1, 1]]) == {}
