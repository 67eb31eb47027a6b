"""PASCAL-Part in the format of VLPart, with small files made here."""

import json

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.published.pascal_part import PascalPart
from gemma_lisa.datasets_builder.rows import decode_mask, encode_mask

PHOTOS = "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages"


pytestmark = pytest.mark.usefixtures("own_cache")


def columns(left, right):
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[:, left:right] = 1
    return mask


@pytest.fixture
def root(tmp_path):
    """Return a data folder with one training photo, in which both wings have the same category."""
    (tmp_path / PHOTOS).mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(tmp_path / PHOTOS / "2008_000002.jpg")
    masks = [(2, columns(0, 1)), (2, columns(6, 8)), (84, columns(3, 4)), (19, columns(2, 3)), (83, columns(4, 5))]
    annotations = [
        {"id": number, "segmentation": encode_mask(mask), "bbox": [0.0, 0.0, 1.0, 5.0], "category_id": category}
        | {"image_id": 2008000002, "iscrowd": 0, "area": 5.0}
        for number, (category, mask) in enumerate(masks)
    ]
    content = {
        "categories": [
            {"id": 2, "name": "aeroplane:wing"},
            {"id": 19, "name": "bus:license plate", "abbr": "bus:liplate"},
            {"id": 83, "name": "potted plant:plant"},
            {"id": 84, "name": "potted plant:pot"},
        ],
        "images": [{"id": 2008000002, "file_name": "2008_000002.jpg", "height": 6, "width": 8}],
        "annotations": annotations,
    }
    (tmp_path / "vlpart/pascal_part/train.json").write_text(json.dumps(content))
    return tmp_path


def test_row_has_a_target_for_each_part_and_left_and_right_are_united(root):
    (row,) = load_rows("pascal_part", "train", str(root))
    assert row["source"] == "pascal_part/train/2008_000002"
    assert row["image"] == {"bytes": None, "path": str(root / PHOTOS / "2008_000002.jpg")}
    assert [target["texts"] for target in row["targets"]] == [
        ["the wing of the aeroplane", "the aeroplane wing"],
        ["the pot of the potted plant", "the potted plant pot"],
        ["the license plate of the bus", "the bus license plate"],
        ["the plant of the potted plant"],
    ]
    assert np.array_equal(decode_mask(row["targets"][0]["masks"][0], ""), columns(0, 1) | columns(6, 8))
    assert all(target["ignore"] is None for target in row["targets"])


def test_val_json_is_the_validation_split(root):
    with pytest.raises(ValueError, match="no split 'validation'"):
        load_rows("pascal_part", "validation", str(root))
    (root / "vlpart/pascal_part/val.json").write_bytes((root / "vlpart/pascal_part/train.json").read_bytes())
    assert load_rows("pascal_part", "validation", str(root))[0]["source"] == "pascal_part/validation/2008_000002"


def test_missing_photo_is_refused_with_download_instructions(root):
    (root / PHOTOS / "2008_000002.jpg").unlink()
    with pytest.raises(ValueError, match="train.json: image 2008000002.*no such file.*VOCtrainval_03-May-2010.tar"):
        load_rows("pascal_part", "train", str(root))


def test_missing_json_files_are_refused_with_how_to_create_them(tmp_path):
    (tmp_path / "vlpart/pascal_part").mkdir(parents=True)
    with pytest.raises(ValueError, match="none of train.json, val.json exists.*pascal_part_mat2json.py"):
        load_rows("pascal_part", "train", str(tmp_path))


def test_dataset_info_has_license_homepage_and_citation():
    info = PascalPart(config_name="default", data_dir=".").info
    assert info.license and info.homepage and info.citation
