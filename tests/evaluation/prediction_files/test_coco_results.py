"""COCO results: one record per mask, grouped by question."""

from pathlib import Path

import pytest

from gemma_lisa.evaluation.prediction_files.coco_results import read_coco_results

MASK = {"size": [4, 6], "counts": "08`0"}
PATH = Path("results.json")


def record(**keys):
    return {"image_id": 3, "category_id": 1, "segmentation": MASK, "score": 0.5, **keys}


def test_records_of_a_question_are_its_masks():
    entries = read_coco_results(
        [record(), record(image_id="a"), record(score=0.25, segmentation=[[0, 0, 1, 0, 1, 1]])], PATH
    )
    assert [(entry.name, len(entry.masks), entry.scores) for entry in entries] == [(3, 2, [0.5, 0.25]), ("a", 1, [0.5])]
    assert entries[0].masks == [MASK, [[0, 0, 1, 0, 1, 1]]]


def test_question_id_comes_before_image_id_and_id_is_the_number_of_the_annotation():
    (entry,) = read_coco_results([record(question_id="a#1", id=77)], PATH)
    assert entry.name == "a#1"


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        ([record(), 3], "record 1 must be an object with the key segmentation, got 3"),
        ([record(), {"image_id": 3}], "record 1 must be an object with the key segmentation"),
        ([{"segmentation": MASK, "id": 4}], "record 0: the id of its question is missing; add the key question_id"),
        ([record(score=float("nan"))], r"record 0 \(3\): a score must be a number between 0 and 1, got nan"),
        ([record(), {"image_id": 3, "segmentation": MASK}], "record 1 .3.: either all records must have a score"),
        ([{"image_id": 3, "segmentation": MASK}, record()], "record 1 .3.: either all records must have a score"),
    ],
)
def test_wrong_records_are_named(records, problem):
    with pytest.raises(ValueError, match=f"^results.json: {problem}"):
        read_coco_results(records, PATH)
