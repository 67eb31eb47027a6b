"""Which labelling tool wrote the files of a folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from own_folder import labelme, load, mask, numbers, photo, refusal, shape, write
from PIL import Image

from gemma_lisa.datasets_builder.custom.recognition import FORMATS, other_export, own_layout, recognize
from gemma_lisa.datasets_builder.formats.annotated import Notes
from gemma_lisa.datasets_builder.formats.voc_colors import STANDARD_NAMES, VOC_COLORS

pytestmark = pytest.mark.usefixtures("own_cache")
EXPORTS = Path(__file__).resolve().parents[2] / "exports"
MUG = shape("mug", [[0, 0], [4, 0], [4, 3], [0, 3]])
COCO = {
    "images": [{"id": 1, "file_name": "1.jpg", "height": 6, "width": 8}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 3, 0, 3]]}],
    "categories": [{"id": 1, "name": "plate"}],
}


@pytest.fixture
def root(tmp_path):
    photo(tmp_path / "photos", "1.jpg")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("export", "name"),
    [
        ("datumaro/coco_instances", "coco"),
        ("datumaro/coco_panoptic", "coco_panoptic"),
        ("datumaro/cvat", "cvat"),
        ("datumaro/datumaro", "datumaro"),
        ("datumaro/voc_segmentation", "voc"),
    ],
)
def test_the_export_of_a_tool_is_recognized_as_one_format(export, name):
    assert [key for key, one in FORMATS.items() if one.recognizes(EXPORTS / export)] == [name]
    splits = FORMATS[name].read(EXPORTS / export, Notes())
    assert splits and all(images for images in splits.values())


def test_remarks_of_masks_that_are_read_one_at_a_time_are_logged(tmp_path, caplog):
    for number in range(3):
        photo(tmp_path, f"JPEGImages/{number}.jpg")
        picture = Image.fromarray(numbers(n15=slice(0, 2)).astype(np.uint8)).convert("P")
        picture.putpalette([channel for color in VOC_COLORS for channel in color.to_bytes(3, "big")])
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        picture.save(tmp_path / f"SegmentationClass/{number}.png")
    assert {text for row in load(tmp_path) for target in row["targets"] for text in target["texts"]} == {"the person"}
    assert f"{STANDARD_NAMES} (3), first:" in caplog.text


def test_two_formats_are_refused_unless_the_option_chooses_one(root):
    labelme(root, "images/1.json", [MUG])
    write(root, "annotations.json", json.dumps(COCO))
    assert "contains COCO instances JSON and LabelMe JSON files; choose one by the option format" in refusal(root)
    assert [load(root, format=name)[0]["targets"][0]["texts"] for name in ("coco", "labelme")] == [
        ["the plate"],
        ["the mug"],
    ]
    assert recognize(root, "via") == ("via", FORMATS["via"])


def test_masks_have_precedence_and_the_other_files_are_named(root, caplog):
    mask(root, "1_cup.png", numbers(n1=slice(0, 2)))
    assert own_layout(root) == "masks/"
    write(root, "annotations.json", json.dumps(COCO))
    assert load(root)[0]["targets"][0]["texts"] == ["the cup"]
    assert "read masks/ and ignored the COCO instances JSON (option format)" in caplog.text
    assert load(root, format="coco")[0]["targets"][0]["texts"] == ["the plate"]


def test_the_export_of_a_tool_that_is_not_read_is_named(root):
    write(root, "project.json", json.dumps({"project": {}, "config": {}, "file": {}, "view": {}}))
    assert other_export(root) == "project.json is a VIA 3 project: export it as COCO JSON with polygons or masks"
    assert "project.json is a VIA 3 project" in refusal(root) and "images/" not in refusal(root).split(";")[-1]


def test_an_export_one_folder_deeper_is_named(tmp_path):
    write(tmp_path / "photos", "export/result.json", json.dumps(COCO))
    photo(tmp_path / "photos" / "export", "1.jpg")
    said = refusal(tmp_path / "photos")
    assert "only export/; export/ contains COCO instances JSON: set data_dir to this folder" in said
