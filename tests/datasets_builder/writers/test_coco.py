"""COCO files: read by pycocotools and by this project's own reader."""

import json

import numpy as np
import pytest
from drawn_masks import masks
from exported_photos import NAMES, assert_folder_reads_exactly_the_masks, drawn_photos
from pycocotools.coco import COCO as CocoFile

from gemma_lisa.datasets_builder.class_names import question_of
from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.rows import decode_mask
from gemma_lisa.datasets_builder.writers.coco import ANNOTATIONS, COCO


@pytest.fixture
def folder(tmp_path):
    assert COCO.write(tmp_path, iter(drawn_photos(tmp_path / COCO.photos)), NAMES) == []
    return tmp_path


def test_pycocotools_reads_exactly_the_masks(folder):
    coco = CocoFile(folder / ANNOTATIONS)
    for number, mask in enumerate(masks().values()):
        (image,) = [image for image in coco.imgs.values() if image["file_name"] == f"{number}.png"]
        (annotation,) = coco.imgToAnns[image["id"]]
        assert (coco.annToMask(annotation) == mask).all()
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["bbox"] == box and annotation["area"] == mask.sum() and annotation["iscrowd"] == 0
        assert annotation["score"] == round(0.1 * number + 0.012345, 4)
        assert coco.cats[annotation["category_id"]]["name"] == NAMES[number % 3]


def test_photos_without_objects_and_unused_classes_are_listed(folder):
    content = json.loads((folder / ANNOTATIONS).read_text())
    assert [image["file_name"] for image in content["images"]][-1] == "nothing.png"
    assert [category["name"] for category in content["categories"]] == NAMES
    assert content["images"][0] == {"id": 1, "file_name": "0.png", "width": 56, "height": 40}


def test_masks_are_polygons_because_label_studio_fails_on_rle(folder):
    content = json.loads((folder / ANNOTATIONS).read_text())
    assert all(isinstance(annotation["segmentation"], list) for annotation in content["annotations"])


def test_coco_instances_reads_exactly_the_masks(folder):
    rows = load_rows("coco_instances", "train", str(folder))
    drawn = list(masks().values())
    assert len(rows) == len(drawn)
    for row in rows:
        number = int(row["source"].split("/")[2].removesuffix(".png"))
        (target,) = row["targets"]
        assert target["texts"] == [question_of(NAMES[number % 3])]
        assert (decode_mask(target["masks"][0], "row") == drawn[number]).all()


def test_folder_reads_exactly_the_masks(folder):
    assert_folder_reads_exactly_the_masks(folder)


def test_a_data_set_without_objects_is_valid_json(tmp_path):
    COCO.write(tmp_path, iter([]), [])
    content = json.loads((tmp_path / ANNOTATIONS).read_text())
    assert content["images"] == content["annotations"] == content["categories"] == []
