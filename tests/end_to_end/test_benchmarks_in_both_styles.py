"""Predictions for data in the formats of ReasonSeg, ReasonSeg-X and gRefCOCO, scored exactly and as LISA's code does.

The two styles differ for three reasons, and each data set shows one of them.
"""

import json

import numpy as np
import pytest
from hub_tables import box, photo_bytes, row, write_table

from gemma_lisa import eval as evaluation
from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.evaluation.benchmark import list_questions

pytestmark = pytest.mark.usefixtures("own_cache")

LEFT, RIGHT, WHOLE = box(0, 0, 8, 6), box(0, 6, 8, 12), box(0, 0, 8, 12)  # of 8 x 12 pixels: 48, 48 and 96


def shape(label, left, top, right, bottom):
    """Return a rectangle of LabelMe; its last column and row are part of it."""
    points = [[left, top], [right, top], [right, bottom], [left, bottom]]
    known = {"labels": [label], "shape_type": "polygon", "image_name": "x.jpg", "group_id": None, "group_ids": [None]}
    return {"label": label, "points": points, "flags": {}, **known}


def scored(folder, name, split, answers):
    """Score answers (lists of masks) in the order of the questions, and return (scores, scores in LISA's style)."""
    asked = ["--dataset", name, "--data_dir", str(folder / "data"), "--split", split, "--overwrite"]
    evaluation.main([*asked, "--write_questions", str(folder / "questions.jsonl")])
    lines = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    assert len(lines) == len(answers)
    predictions = [
        {"id": line["id"], "masks": [encode_mask(mask) for mask in masks]}
        for line, masks in zip(lines, answers, strict=True)
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in predictions))
    files = ["--predictions", str(folder / "predictions.jsonl"), "--output", str(folder / "results.json")]
    evaluation.main([*asked, *files, "--metric_style", "lisa", "--pictures", "0"])
    content = json.loads((folder / "results.json").read_text())
    evaluation.main([*asked, *files, "--metric_style", "exact", "--pictures", "0"])
    exact = json.loads((folder / "results.json").read_text())["scores"]
    assert exact == content["exact_scores"] and content["style"] == "lisa"
    return exact, content["scores"]


def test_reason_seg_differs_only_by_lisas_epsilons(tmp_path):
    folder = tmp_path / "data/reason_seg/ReasonSeg/val"
    folder.mkdir(parents=True)
    target, ignored = shape("target", 0, 0, 5, 7), shape("ignore", 8, 4, 11, 7)
    for name, shapes in (("1_o", [target, ignored]), ("2_o", [target])):
        content = {"text": ["the wall"], "is_sentence": False, "shapes": shapes}
        (folder / f"{name}.json").write_text(json.dumps(content))
        (folder / f"{name}.jpg").write_bytes(photo_bytes())
    exact, lisa = scored(tmp_path, "reason_seg", "validation", [[WHOLE], [LEFT]])
    # The 16 ignored pixels count neither as wrong nor as right: 48 / (96 - 16), and 48 / 48
    assert exact["gIoU"] == pytest.approx((48 / 80 + 1) / 2)
    assert exact["cIoU"] == pytest.approx((48 + 48) / (80 + 48))
    # Every question has one target, so the styles nearly agree. LISA adds 1e-5 to each union and to the number of
    # masks, and 1e-10 to the sum of unions
    assert lisa["gIoU"] == pytest.approx((48 / (80 + 1e-5) + 48 / (48 + 1e-5)) / (2 + 1e-5), abs=1e-12)
    assert lisa["cIoU"] == pytest.approx(96 / (128 + 1e-10), abs=1e-12)
    assert 0 < abs(exact["gIoU"] - lisa["gIoU"]) < 1e-5


def test_reason_seg_x_differs_by_questions_without_a_target(tmp_path):
    rows = [
        row("1_o", "the wall", LEFT, photo_bytes()),
        row("1_o", "the cat", box(0, 0, 0, 0), photo_bytes()),
        row("2_o", "the dog", box(0, 0, 0, 0), photo_bytes(color=9)),
    ]
    write_table(tmp_path / "data/reason_seg/ReasonSegX_test", rows)
    exact, lisa = scored(tmp_path, "reason_seg_x", "test", [[WHOLE], [], [RIGHT]])
    # This format has no ignore region, so all pixels of the right half are wrong: 48 / 96. A right refusal is no mask,
    # so it is counted by N-acc and not by gIoU
    assert exact["gIoU"] == pytest.approx(48 / 96) and exact["N-acc"] == 0.5
    # LISA's mean is over all questions: a right refusal is a perfect mask (1), a wrong mask is 0 of 48 pixels
    assert lisa["gIoU"] == pytest.approx((48 / 96 + 1 + 0) / 3, abs=1e-5)
    assert exact["gIoU_all"] == pytest.approx(lisa["gIoU"], abs=1e-5)
    # cIoU is over all questions in both styles; the wrong mask is in its denominator
    assert exact["cIoU"] == pytest.approx(48 / (96 + 48)) and lisa["cIoU"] == pytest.approx(exact["cIoU"])


def ref(number, text, ids):
    sentence = {"sent": text, "raw": text, "tokens": text.split(), "sent_id": number}
    known = {"ref_id": number, "ann_id": ids, "image_id": 9, "split": "val", "sentences": [sentence]}
    return {**known, "category_id": [1] * len(ids), "no_target": ids == [-1], "file_name": "COCO_train2014_9.jpg"}


def test_grefcoco_differs_by_the_order_of_several_masks(tmp_path):
    folder, photos = tmp_path / "data/refer_seg/grefcoco", tmp_path / "data/refer_seg/images/mscoco/images/train2014"
    folder.mkdir(parents=True)
    photos.mkdir(parents=True)
    (photos / "COCO_train2014_000000000009.jpg").write_bytes(photo_bytes())
    image = {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "height": 8, "width": 12}
    rings = {1: [0, 0, 6, 0, 6, 8, 0, 8], 2: [6, 0, 12, 0, 12, 8, 6, 8]}
    annotations = [
        {"id": number, "image_id": 9, "iscrowd": 0, "category_id": 1, "segmentation": [ring]}
        for number, ring in rings.items()
    ]
    content = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "wall"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    refs = [ref(0, "both walls", [1, 2]), ref(1, "the left wall", [1]), ref(2, "the cat", [-1])]
    (folder / "grefs(unc).json").write_text(json.dumps(refs))
    rows = load_rows("grefcoco", "validation", str(tmp_path / "data"))
    plural = next(question for question in list_questions(rows, "grefcoco") if question.text == "both walls")
    order = [LEFT, RIGHT] if plural.targets == [encode_mask(LEFT), encode_mask(RIGHT)] else [RIGHT, LEFT]

    def answers(of_both):
        by_text = {"both walls": of_both, "the left wall": [LEFT], "the cat": []}
        return [by_text[question.text] for question in list_questions(rows, "grefcoco")]

    exact, lisa = scored(tmp_path, "grefcoco", "validation", answers(order))
    assert exact["gIoU"] == exact["cIoU"] == exact["N-acc"] == 1 and lisa["gIoU"] == pytest.approx(1, abs=1e-5)
    # The same two masks in the other order. Exact scores compare the union of the masks, and instances are matched one
    # to one, so the order does not matter
    exact, lisa = scored(tmp_path, "grefcoco", "validation", answers(order[::-1]))
    assert exact["gIoU"] == exact["cIoU"] == exact["instance_IoU"] == 1 and exact["instance_IoU_ordered"] == 0
    # LISA compares the k-th mask with the k-th target: 0, 0, then 1 for the left wall and 1 for the refusal
    assert lisa["gIoU"] == pytest.approx((0 + 0 + 1 + 1) / 4, abs=1e-5)
    assert lisa["cIoU"] == pytest.approx(48 / (96 + 96 + 48))
    # One mask that covers both walls: the union is right, but half of the targets have no mask of their own
    exact, lisa = scored(tmp_path, "grefcoco", "validation", answers([np.asarray(WHOLE)]))
    assert exact["gIoU"] == 1 and lisa["gIoU"] == pytest.approx((48 / 96 + 0 + 1 + 1) / 4, abs=1e-5)
    assert exact["instance_IoU"] == pytest.approx((48 / 96 + 0) / 2)
