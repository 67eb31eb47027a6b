"""Annotations that cannot be read are named, with what to export instead."""

import json
import re

import pytest
from own_folder import labelme, mask, numbers, photo, refusal, shape, write

from gemma_lisa.datasets_builder.custom.folder_exports import unread_export

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def root(tmp_path):
    photo(tmp_path / "photos", "1.jpg")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("export.ndjson", '{"data_row": {"id": "x"}}', "export.ndjson is a Labelbox export: export it as COCO JSON"),
        ("train-00.tfrecord", "", "train-00.tfrecord is a TFRecord file: export it as COCO JSON"),
        ("via.csv", "filename,region_shape_attributes", "via.csv is a CSV export of VIA: .* JSON from VIA 2"),
        ("train.csv", "ImageId,EncodedPixels", "train.csv is a table of run lengths: save each mask as a PNG"),
        ("boxes.csv", "filename,class,xmin,ymin", "boxes.csv is a table of boxes: it has boxes only"),
        ("gtFine/a/1_gtFine_polygons.json", '{"imgHeight": 6}', "is a Cityscapes file of polygons: .*_labelIds.png"),
        ("label_2/1.txt", "Car 0 0 -1.5", "label_2/1.txt is a KITTI label file: it has boxes only"),
        ("labelsTr/1.nii.gz", "", "labelsTr/1.nii.gz is a NIfTI volume: save each slice"),
        ("masks/1.npy", "", "masks/1.npy is a file of arrays: save each mask"),
        ("masks/1.mat", "", "masks/1.mat is a file of arrays: save each mask"),
        ("a.json", '[{"version": 0, "shapes": [], "tracks": []}]', 'a.json is a CVAT backup: .*"CVAT for images'),
        ("b.json", '[{"labels": [{"poly2d": []}]}]', "b.json is a file in the format of BDD100K"),
        ("c.json", '{"my": "own"}', "c.json is a file in a format that is not known: export it as COCO JSON"),
        ("d.json", json.dumps([{"data_row": 1, "projects": 2}]), "d.json is a Labelbox export: export it as COCO"),
    ],
)
def test_an_export_is_named_with_and_without_a_folder_of_photos(root, name, text, said):
    write(root, name, text)
    assert re.search(said, refusal(root))
    (root / "images").rename(root / "pictures")
    assert re.search(said, refusal(root))


def test_photos_and_tables_are_no_exports(root):
    for name in ("classes.txt", "questions.csv", "README.md", "readme.txt"):
        write(root, name, "")
    assert unread_export(root) is None and unread_export(root / "nothing") is None


@pytest.mark.parametrize("name", ["1 (1).png", "mug/1.png", "other.png"])
def test_masks_without_their_photo_are_named(root, name):
    mask(root, f"masks/{name}", numbers(n1=slice(0, 2)))
    said = refusal(root)
    assert f"masks/{name} does not have the name of a photo: rename the masks, such as masks/1.png" in said


def test_masks_beside_labelme_files_are_not_called_ignored(root):
    mask(root, "1.png", numbers(n1=slice(0, 2)))
    labelme(root, "images/1.json", [shape("mug", [[0, 0], [4, 0], [4, 3]])])
    assert 'keep one of the two, or set the option format to "labelme"' in refusal(root, text="the mug")


def test_a_file_of_another_tool_beside_a_photo_is_named(root):
    photo(root, "2.jpg")
    mask(root, "2.png", numbers(n1=slice(0, 2)))
    write(root, "images/1.json", json.dumps({"image": {"image_id": 1}, "annotations": []}))
    assert "images/1.json is an SA-1B file: export it as COCO JSON" in refusal(root, text="the mug")
