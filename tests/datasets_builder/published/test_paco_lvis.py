"""PACO-LVIS in its original layout, with small files made here."""

import json

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.published.paco_lvis import PacoLvis
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.datasets_builder.rows import IGNORE_VALUE, decode_mask, encode_mask

CATEGORIES = [
    {"id": 23, "name": "trash_can", "supercategory": "OBJECT"},
    {"id": 207, "name": "car_(automobile)", "supercategory": "OBJECT"},
    {"id": 2000, "name": "car_(automobile):antenna", "supercategory": "PART"},
    {"id": 2017, "name": "trash_can:inner_body", "supercategory": "PART"},
    {"id": 61, "name": "basket", "supercategory": "OBJECT"},
]
TRASH_CAN, CAR, ANTENNA, INNER_BODY, BASKET = (category["id"] for category in CATEGORIES)


pytestmark = pytest.mark.usefixtures("own_cache")


def image(number, folder, negative=(), partly=()):
    file_name = f"{folder}/{number:012d}.jpg"
    lists = {"neg_category_ids": list(negative), "not_exhaustive_category_ids": list(partly)}
    return {"id": number, "file_name": file_name, "height": 6, "width": 8, "license": 1, **lists}


def annotation(number, image_id, category, left, right, owner=None):
    """Return an annotation of all rows from column `left` to `right`, as compressed RLE."""
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[:, left:right] = 1
    more = {
        "bbox": [left, 0, right - left, 6],
        "area": int(mask.sum()),
        "attribute_ids": [],
        "obj_ann_id": owner or number,
    }
    return {"id": number, "image_id": image_id, "category_id": category, "segmentation": encode_mask(mask), **more}


def write(root, name, images, annotations, categories=CATEGORIES):
    for record in images:
        path = root / "coco" / record["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (record["width"], record["height"])).save(path)
    folder = root / "vlpart/paco/annotations"
    folder.mkdir(parents=True, exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories, "attributes": []}
    (folder / f"paco_lvis_v1_{name}.json").write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path):
    """Return a data folder of three splits. Trash cans are not exhaustively annotated in the second training photo."""
    first = image(9, "train2017", [CAR, ANTENNA, BASKET, 1203], [TRASH_CAN + 1])
    second = image(25, "train2017", [BASKET], [TRASH_CAN])
    annotations = [
        annotation(1, 9, TRASH_CAN, 0, 2),
        annotation(2, 9, TRASH_CAN, 5, 7),  # its parts are not annotated
        annotation(600, 9, INNER_BODY, 0, 1, owner=1),
        annotation(3, 25, TRASH_CAN, 0, 2),
        annotation(601, 25, INNER_BODY, 0, 1, owner=3),
        annotation(4, 25, CAR, 4, 8),
    ]
    write(tmp_path / "data", "train", [first, second], annotations)
    write(tmp_path / "data", "val", [image(30, "train2017")], [annotation(1, 30, CAR, 0, 3)])
    write(tmp_path / "data", "test", [image(139, "val2017")], [annotation(1, 139, CAR, 0, 3)])
    return tmp_path / "data"


def test_row_has_a_target_for_each_category_and_two_texts_for_a_part(root, caplog):
    rows = load_rows("paco_lvis", "train", str(root))
    assert [row["source"] for row in rows] == ["paco_lvis/train/000000000009", "paco_lvis/train/000000000025"]
    assert [[target["texts"] for target in row["targets"]] for row in rows] == [
        [["the trash can"], ["the inner body of the trash can", "the trash can inner body"]],
        [["the car"]],
    ]
    assert rows[0]["image"] == {"bytes": None, "path": str(root / "coco/train2017/000000000009.jpg")}
    assert "skipped annotations of categories that are not exhaustively annotated (2)" in caplog.text
    assert "annotation 3" in caplog.text


def test_instances_are_united_and_those_without_annotated_parts_are_ignored_for_parts(root):
    questions = EvaluationQuestions(load_rows("paco_lvis", "train", str(root)), with_conversations=False)
    assert questions[0]["image"].load().mode == "RGB"
    can, inner = questions[0]["masks"][0][0], questions[1]["masks"][0][0]
    assert can[0].tolist() == [1, 1, 0, 0, 0, 1, 1, 0]
    assert inner[0].tolist() == [1, 0, 0, 0, 0, IGNORE_VALUE, IGNORE_VALUE, 0]


def test_each_split_has_its_own_file_and_one_file_is_enough(root):
    assert load_rows("paco_lvis", "validation", str(root))[0]["source"] == "paco_lvis/validation/000000000030"
    assert load_rows("paco_lvis", "test", str(root))[0]["image"]["path"].endswith("val2017/000000000139.jpg")
    for name in ("train", "test"):
        (root / f"vlpart/paco/annotations/paco_lvis_v1_{name}.json").unlink()
    assert len(load_rows("paco_lvis", "validation", str(root))) == 1
    with pytest.raises(ValueError, match="no split 'train'"):
        load_rows("paco_lvis", "train", str(root))


def test_absent_targets_are_only_negative_categories_of_lvis(root):
    everything = load_rows("paco_lvis", "train", str(root), {"absent": 9})
    missing = [[target["texts"][0] for target in row["targets"] if not target["masks"]] for row in everything]
    assert missing == [["the antenna of the car", "the basket", "the car"], ["the basket"]]
    drawn = [load_rows("paco_lvis", "train", str(root), {"absent": 1, "seed": seed})[0] for seed in range(8)]
    texts = [[target["texts"][0] for target in row["targets"] if not target["masks"]] for row in drawn]
    assert all(len(one) == 1 for one in texts) and len({one[0] for one in texts}) > 1
    questions = EvaluationQuestions(everything, with_conversations=False)
    assert questions[2]["masks"][0].shape == (0, 6, 8) and questions[2]["conversations"][0].turns[0][1].startswith("No")


@pytest.mark.parametrize("absent", [-1, 0.5, "all"])
def test_absent_must_be_a_number(root, absent):
    with pytest.raises(ValueError, match="paco_lvis: absent must be an integer, 0 or more, got"):
        load_rows("paco_lvis", "train", str(root), {"absent": absent})


def change(root, where, index, **fields):
    path = root / "vlpart/paco/annotations/paco_lvis_v1_train.json"
    content = json.loads(path.read_text())
    content[where][index].update(fields)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "coco/train2017/000000000009.jpg").unlink(), "image 9 .*no such file.*paco_lvis_v1.zip"),
        (lambda root: (root / "coco/train2017/000000000009.jpg").write_bytes(b""), "image 9 .*cannot be read"),
        (lambda root: change(root, "images", 0, file_name="../../x.jpg"), "image 9 .*is outside of"),
        (lambda root: change(root, "images", 0, height=7), "image 9 .*8 x 7"),
        (
            lambda root: change(root, "images", 0, not_exhaustive_category_ids=3),
            "image 9 .*not_exhaustive_category_ids must be a list of category ids, got 3",
        ),
        (lambda root: change(root, "annotations", 0, segmentation=None), "image 9 .*annotation 1 has no segmentation"),
        (lambda root: change(root, "annotations", 0, segmentation={"size": [6, 8], "counts": "0"}), "annotation 1"),
        (lambda root: change(root, "annotations", 0, category_id=5), "annotation 1: there is no category 5"),
        (lambda root: change(root, "annotations", 1, id=1), "annotation 1 exists twice"),
        (lambda root: change(root, "images", 0, file_name="train2017/" + "x" * 300), "image 9 .*too long"),
    ],
    ids="no_photo empty_photo climbs_out another_size no_list no_mask broken_runs no_category twice long".split(),
)
def test_bad_record_is_refused_or_skipped_with_max_bad(root, spoil, message, caplog):
    spoil(root)
    with pytest.raises(ValueError, match=f"paco_lvis_v1_train.json.*{message}"):
        load_rows("paco_lvis", "train", str(root))
    rows = load_rows("paco_lvis", "train", str(root), {"max_bad": 1})
    assert [row["source"] for row in rows] == ["paco_lvis/train/000000000025"] and "skipped: " in caplog.text


def test_invalid_coco_file_is_refused(root):
    change(root, "categories", 1, name="car:door:handle")
    with pytest.raises(ValueError, match="train.json: name of category 207 must be .thing. or .thing:part."):
        load_rows("paco_lvis", "train", str(root))
    change(root, "annotations", 1, category_id=5)
    with pytest.raises(ValueError, match="train.json: annotation 2: there is no category 5"):
        load_rows("paco_lvis", "train", str(root))


def test_missing_files_are_refused_with_download_instructions(tmp_path):
    with pytest.raises(ValueError, match="vlpart/paco: no such folder.*paco_lvis_v1.zip"):
        load_rows("paco_lvis", "train", str(tmp_path))
    (tmp_path / "vlpart/paco").mkdir(parents=True)
    with pytest.raises(ValueError, match="none of annotations/paco_lvis_v1_train.json.* exists.*paco_lvis_v1.zip"):
        load_rows("paco_lvis", "train", str(tmp_path))


def test_changed_file_is_prepared_again(root):
    load_rows("paco_lvis", "train", str(root))
    change(root, "categories", 0, name="dust_bin")
    assert load_rows("paco_lvis", "train", str(root))[0]["targets"][0]["texts"] == ["the dust bin"]


def test_segmentation_can_be_a_polygon(root):
    change(root, "annotations", 0, segmentation=[[0, 0, 3, 0, 3, 6, 0, 6]])
    target = load_rows("paco_lvis", "train", str(root))[0]["targets"][0]
    assert decode_mask(target["masks"][0], "")[0].tolist() == [1, 1, 1, 0, 0, 1, 1, 0]


def test_dataset_info_has_license_homepage_and_citation():
    info = PacoLvis(config_name="default", data_dir=".").info
    assert info.license and info.homepage and info.citation
