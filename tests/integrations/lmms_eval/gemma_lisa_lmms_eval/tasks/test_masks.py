"""Documents of the mask tasks, and scores of valid, invalid and other answers."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from prediction_writers import LEFT, SIZE, dataset_of, small_rows

from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.evaluation.benchmark import list_questions
from gemma_lisa.evaluation.judging import judge
from gemma_lisa.evaluation.metrics import summarize
from gemma_lisa.evaluation.records import Prediction


@pytest.fixture
def masks():
    from gemma_lisa_lmms_eval.tasks import masks

    return masks


def answer(*found, **more):
    return json.dumps({"masks": [encode_mask(mask) for mask in found], "boxes": [], "scores": [], **more})


def test_every_question_is_a_document_with_its_image(masks):
    rows = dataset_of(small_rows())
    for table in (rows, rows.cast_column("image", datasets.Image())):
        documents = masks.documents(table)
        assert documents["id"] == [f"small/test/{name}" for name in ("1#0", "1#1", "2.jpg#0", "3#0")]
        assert documents["text"] == ["the left bar", "the box", "all", "the dog"]
        assert documents["expected"][2] == "They are {seg} and {seg}."
        first, second = masks.image_of(documents[0])[0], masks.image_of(documents[2])[0]
        assert first.size == SIZE[::-1] and first.mode == "RGB" and first.tobytes() != second.tobytes()
    assert masks.question_of(documents[0]) == "the left bar"
    assert masks.question_of(documents[0], {"post_prompt": " Answer with JSON."}) == "the left bar Answer with JSON."


def test_scores_are_those_of_the_same_predictions_in_the_evaluation(masks):
    rows = dataset_of(small_rows())
    documents, benchmark = masks.documents(rows), list_questions(rows, "small")
    given = [[LEFT], [LEFT, 1 - LEFT], [], []]
    found = [masks.judged(document, [answer(*some)]) for document, some in zip(documents, given, strict=True)]
    judged = [
        judge(question, Prediction(question.id, [encode_mask(mask) for mask in some], []))
        for question, some in zip(benchmark, given, strict=True)
    ]
    scores = summarize(judged)
    for name, score in zip(
        masks.METRICS, (masks.giou, masks.giou_all, masks.ciou, masks.nacc, masks.tacc), strict=True
    ):
        assert score([one[name] for one in found]) == pytest.approx(scores[name], abs=1e-12), name
    assert scores["N-acc"] == 1 and scores["T-acc"] == pytest.approx(2 / 3) and 0 < scores["gIoU"] < 1
    assert [one["invalid"] for one in found] == [0.0] * 4


@pytest.mark.parametrize(
    "text",
    [
        "the dog",
        "",
        "[]",
        '{"boxes": []}',
        '{"masks": "04L"}',
        '{"masks": [{"size": [4, 6], "counts": "0"}]}',
        '{"masks": [{"size": [6, 4], "counts": "0h0"}]}',
        '{"masks": [], "complete": "yes"}',
    ],
)
def test_invalid_answer_counts_as_wrong_also_for_an_absent_target(masks, text):
    documents = masks.documents(dataset_of(small_rows()))
    found = [masks.judged(document, [text]) for document in documents]
    assert [one["invalid"] for one in found] == [1.0] * 4
    assert masks.giou([one["gIoU"] for one in found]) == masks.nacc([one["N-acc"] for one in found]) == 0


def test_answer_that_was_cut_off_is_no_refusal(masks):
    absent = masks.documents(dataset_of(small_rows()))[3]
    scores = [masks.nacc([masks.judged(absent, [answer(complete=done)])["N-acc"]]) for done in (True, False)]
    assert scores == [1, 0]
    assert masks.giou([masks.judged(absent, [answer()])["gIoU"]]) is None


def test_split_without_questions_for_masks_is_refused(masks):
    words = [{**small_rows()[0], "targets": []}]
    with pytest.raises(ValueError, match="no questions for masks"):
        masks.documents(dataset_of(words))


def test_task_files_name_existing_functions_and_every_task_is_in_a_group(masks):
    folder = Path(masks.__file__).parent
    named = [line.split()[-1] for line in (folder / "masks_template").read_text().splitlines() if "!function" in line]
    assert named and all(callable(getattr(masks, name.rsplit(".", 1)[1])) for name in named)
    tasks = [yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml")]
    listed = [name for task in tasks if "group" in task for name in task["task"]]
    assert sorted(listed) == sorted(task["task"] for task in tasks if "group" not in task) and len(listed) == 8
    assert all(task["dataset_path"].startswith("./prepared/") for task in tasks if "group" not in task)
    assert np.all([task["include"] == "masks_template" for task in tasks if "group" not in task])
