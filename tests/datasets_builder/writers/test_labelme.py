"""LabelMe files: read by independent code and by this project's own reader."""

import json

import numpy as np
import pytest
from drawn_masks import SHAPE, filled, masks
from exported_photos import NAMES, assert_folder_reads_exactly_the_masks, drawn_photos

from gemma_lisa.datasets_builder.writers.labelme import IMAGES, LABELME


@pytest.fixture
def folder(tmp_path):
    assert LABELME.write(tmp_path, iter(drawn_photos(tmp_path / LABELME.photos)), NAMES) == []
    return tmp_path


def test_the_polygons_of_an_object_hold_exactly_its_mask(folder):
    for number, mask in enumerate(masks().values()):
        content = json.loads((folder / IMAGES / f"{number}.json").read_text())
        assert (content["imageHeight"], content["imageWidth"]) == SHAPE
        assert content["imagePath"] == f"{number}.png" and content["imageData"] is None
        shapes = content["shapes"]
        assert {shape["label"] for shape in shapes} == {NAMES[number % 3]}
        assert {shape["description"] for shape in shapes} == {f"score {0.1 * number + 0.012345:.2f}"}
        assert {shape["shape_type"] for shape in shapes} == {"polygon"}
        assert {shape["group_id"] for shape in shapes} == ({1} if len(shapes) > 1 else {None})
        assert (filled([np.array(shape["points"]) for shape in shapes], SHAPE) == mask).all()


def test_a_photo_without_objects_has_a_file_without_shapes(folder):
    assert json.loads((folder / IMAGES / "nothing.json").read_text())["shapes"] == []


def test_folder_reads_exactly_the_masks(folder):
    assert_folder_reads_exactly_the_masks(folder)
