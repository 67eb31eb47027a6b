"""Predictions of other systems are judged from files: known baselines have known scores in every format."""

import json

import pytest
from prediction_writers import (
    dataset_of,
    empty_mask,
    nothing,
    random_box,
    small_benchmark,
    small_rows,
    truth,
    whole_image,
    write_agent,
    write_coco,
    write_jsonl,
    write_lmms,
    write_pngs,
)

from gemma_lisa.evaluation.benchmark import list_questions
from gemma_lisa.evaluation.from_files import judge_file
from gemma_lisa.evaluation.metrics import summarize
from gemma_lisa.evaluation.prediction_files.read import open_predictions

WRITERS = (write_jsonl, write_coco, write_lmms, write_agent, write_pngs)


def judged(path, benchmark=None, missing=None):
    return judge_file(benchmark or small_benchmark(), open_predictions(path), missing)


def scores_of(path, missing=None):
    return summarize(judged(path, missing=missing))


@pytest.mark.parametrize("write", WRITERS)
def test_the_truth_has_perfect_scores_in_every_format(tmp_path, write):
    scores = scores_of(write(tmp_path / "p", small_benchmark(), truth), "zero" if write is write_coco else None)
    for name in ("gIoU", "gIoU_all", "gIoU_plural", "cIoU", "N-acc", "T-acc", "instance_F1", "boundary_IoU"):
        assert scores[name] == 1.0, name
    assert (scores["count"], scores["count_target"], scores["count_no_target"]) == (4, 3, 1)


# (answer, gIoU, cIoU, N-acc, T-acc). Targets of 8, 4 and 12 pixels; the image of the last one has 12 pixels ignored.
# Whole image: 8/24, 4/24, 12/12 and 0/24.
BASELINES = [
    (nothing, 0.0, 0.0, 1.0, 0.0),
    (empty_mask, 0.0, 0.0, 0.0, 1.0),
    (whole_image, (8 / 24 + 4 / 24 + 1) / 3, 24 / (24 + 24 + 12 + 24), 0.0, 1.0),
]


@pytest.mark.parametrize(("answer", "giou", "ciou", "n_acc", "t_acc"), BASELINES)
def test_known_baselines_have_the_expected_scores(tmp_path, answer, giou, ciou, n_acc, t_acc):
    scores = scores_of(write_jsonl(tmp_path / "p", small_benchmark(), answer))
    found = [scores[name] for name in ("gIoU", "cIoU", "N-acc", "T-acc")]
    assert found == pytest.approx([giou, ciou, n_acc, t_acc])


@pytest.mark.parametrize("write", [write_lmms, write_agent, write_pngs])
@pytest.mark.parametrize("answer", [whole_image, random_box])
def test_all_formats_have_the_same_judgement(tmp_path, write, answer):
    expected = judged(write_jsonl(tmp_path / "p.jsonl", small_benchmark(), answer))
    found = judged(write(tmp_path / "p", small_benchmark(), answer))
    assert [one.iou for one in found] == [one.iou for one in expected]
    assert [one.question.id for one in found] == small_benchmark().ids


def test_answers_in_words_are_judged(tmp_path):
    path = write_jsonl(tmp_path / "p", small_benchmark(), truth)
    with path.open("a") as file:
        file.write(json.dumps({"id": "small/test/1#2", "text": "2"}) + "\n")
    found = judged(path, small_benchmark(True))
    assert [one.is_right for one in found] == [None, None, True, None, None]


def test_missing_predictions_stay_in_the_denominator(tmp_path):
    rows = dataset_of(small_rows())
    path = write_jsonl(tmp_path / "p", list_questions(rows.select([0]), "small"), truth)
    with pytest.raises(ValueError, match="no prediction for 2 of 4 questions"):
        judged(path)
    scores = scores_of(path, "zero")
    assert scores["count"] == 4 and scores["gIoU"] == pytest.approx(2 / 3)
