"""gRefCOCO in its original layout: several objects, no objects, and crowds."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.rows import check_row, decode_mask
from gemma_lisa.datasets_builder.templates import ask_plainly

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "samples"
NAME = "COCO_train2014_000000000009"


pytestmark = pytest.mark.usefixtures("own_cache")


def box(left, top, right, bottom):
    """Return a mask of 8 x 6 pixels (width x height)."""
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def listed_runs(mask):
    """Return uncompressed RLE, as for COCO's crowds."""
    down = mask.T.ravel()
    edges = np.concatenate([[0], np.flatnonzero(np.diff(down)) + 1, [down.size]])
    counts = np.diff(edges).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if down[0] else counts}


ANNOTATIONS = [
    {"id": 1, "image_id": 9, "iscrowd": 0, "segmentation": [[4, 4, 8, 4, 8, 6, 4, 6]]},  # bottom right
    {"id": 2, "image_id": 9, "iscrowd": 0, "segmentation": [[4, 0, 8, 0, 8, 2, 4, 2]]},  # top right
    {"id": 3, "image_id": 9, "iscrowd": 0, "segmentation": [[0, 0, 3, 0, 3, 2, 0, 2]]},  # top left
    {"id": 4, "image_id": 9, "iscrowd": 1, "segmentation": listed_runs(box(0, 3, 3, 6))},
    {"id": 5, "image_id": 9, "iscrowd": 0, "segmentation": [[1, 1, 2, 2]]},
]
BOXES = {1: box(4, 4, 8, 6), 2: box(4, 0, 8, 2), 3: box(0, 0, 3, 2), 4: box(0, 3, 3, 6)}


@pytest.fixture
def rows_of(tmp_path):
    """Return a function that writes a set from (phrase, ann_id) pairs and returns its training rows."""
    folder, photos = tmp_path / "refer_seg/grefcoco", tmp_path / "refer_seg/images/mscoco/images/train2014"
    for path in (folder, photos):
        path.mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(photos / f"{NAME}.jpg")
    images = [{"id": 9, "file_name": f"{NAME}.jpg", "height": 6, "width": 8}]
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": ANNOTATIONS, "categories": []}))

    def make(*asked):
        records = [
            {
                "ref_id": number,
                "ann_id": ann_id,
                "category_id": [-1] if ann_id == [-1] else [1],
                "image_id": 9,
                "no_target": ann_id == [-1],
                "split": "train",
                "file_name": f"{NAME}.jpg",
                "sentences": [{"sent": text, "raw": text, "tokens": text.split(), "sent_id": number}],
            }
            for number, (text, ann_id) in enumerate(asked)
        ]
        (folder / "grefs(unc).json").write_text(json.dumps(records))
        return load_rows("grefcoco", "train", str(tmp_path))

    return make


def test_several_objects_have_one_mask_each_from_top_to_bottom_and_left_to_right(rows_of):
    (row,) = rows_of(("everyone", [1, 4, 2, 3]), ("the right two", [1, 2]), ("him", [1]))
    check_row(row)
    assert row["source"] == f"grefcoco/train/{NAME}"
    for target, ids in zip(row["targets"], ([3, 2, 4, 1], [2, 1], [1]), strict=True):
        masks = [decode_mask(mask, "") for mask in target["masks"]]
        assert np.array_equal(masks, [BOXES[number] for number in ids])
    answers = [conversation.turns[0][1] for conversation in ask_plainly(row)]
    assert [answer.count("{seg}") for answer in answers] == [4, 2, 1]


def test_target_without_objects_has_no_mask(rows_of):
    (row,) = rows_of(("a zebra", [-1]), ("him", [1]))
    assert [(target["texts"], len(target["masks"])) for target in row["targets"]] == [(["a zebra"], 0), (["him"], 1)]
    assert row["targets"][0]["ignore"] is None


def test_phrase_for_an_empty_mask_is_skipped_and_not_a_target_without_objects(rows_of, caplog):
    (row,) = rows_of(("nobody can see it", [5]), ("both", [5, 3]))
    (target,) = row["targets"]
    assert target["texts"] == ["both"] and np.array_equal(decode_mask(target["masks"][0], ""), BOXES[3])
    assert "skipped refs to objects with empty masks (1)" in caplog.text and "ref 0" in caplog.text
    assert "skipped annotations with an empty mask (1)" in caplog.text and "annotation 5" in caplog.text


def test_object_listed_twice_has_one_mask(rows_of):
    (row,) = rows_of(("both", [2, 1, 2]))
    assert len(row["targets"][0]["masks"]) == 2


@pytest.mark.parametrize("ann_id", [[1, -1], -1, [99]])
def test_unknown_annotation_ids_are_refused(rows_of, ann_id):
    with pytest.raises(ValueError, match=r"ref 0: .*has no annotation (-1|99) in image 9"):
        rows_of(("him", ann_id))


@pytest.mark.skipif(not (SAMPLES / "coco").is_dir(), reason=f"no real samples: {SAMPLES}")
def test_masks_of_the_real_sample_have_the_known_areas(tmp_path):
    name = "COCO_train2014_000000039769.jpg"
    instances = json.loads((SAMPLES / "coco/derived/instances_39769.json").read_text())
    (image,) = instances["images"]
    image["file_name"] = name
    cats = [annotation["id"] for annotation in instances["annotations"] if annotation["category_id"] == 17]
    everything = [annotation["id"] for annotation in instances["annotations"]]
    folder, photos = tmp_path / "refer_seg/grefcoco", tmp_path / "refer_seg/images/mscoco/images/train2014"
    for path in (folder, photos):
        path.mkdir(parents=True)
    with Image.open(SAMPLES / "coco/val2017/000000039769.png") as picture:
        picture.convert("RGB").save(photos / name)
    (folder / "instances.json").write_text(json.dumps(instances))
    records = [
        {"ref_id": at, "ann_id": ids, "image_id": 39769, "split": "val", "sentences": [{"sent": text}]}
        for at, (text, ids) in enumerate([("cats", cats), ("everything", everything)])
    ]
    (folder / "grefs(unc).json").write_text(json.dumps(records))
    (row,) = load_rows("grefcoco", "validation", str(tmp_path))
    areas = [[int(decode_mask(mask, "").sum()) for mask in target["masks"]] for target in row["targets"]]
    assert areas[0] == [59_710, 53_306]  # the centroid of the right cat is higher
    assert sorted(areas[1]) == [2_118, 4_068, 53_306, 59_710, 176_809, 301_563]
