"""Scores from counts: equal to LISA's where both are defined, and their bootstrap intervals."""

import json
from pathlib import Path

import numpy as np
import pytest
from counts import random_counts

from gemma_lisa.evaluation.metrics import (
    MEANINGS,
    QueryResult,
    intersection_and_union,
    intervals,
    summarize,
    summarize_counts,
    unite,
)

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT.parent / "shared" / "reference"
LISA_EPSILON = 1e-5  # LISA adds it to every union, and to the number of masks it averages over
METRIC_CASES = (
    "random_2img",
    "empty_gt_empty_pred",
    "empty_gt_nonempty_pred",
    "perfect",
    "nonempty_gt_empty_pred",
    "ignore_255",
    "mixed",
)
needs_reference = pytest.mark.skipif(not REFERENCE.exists(), reason="LISA's reference values are not on this machine")


def query_result(
    intersection: int = 0, union: int = 0, num_targets: int = 0, num_predictions: int = 0, complete: bool = True
) -> QueryResult:
    return QueryResult("shapes/val/0", "the red circle", intersection, union, num_targets, num_predictions, complete)


@needs_reference
@pytest.mark.parametrize("case", METRIC_CASES)
def test_with_one_mask_per_query_the_scores_equal_those_of_lisa(case):
    scalars = json.loads((REFERENCE / "lisa_reference.json").read_text())[f"metric.{case}"]
    arrays = np.load(REFERENCE / "lisa_reference.npz")
    results = []
    for image in range(scalars["n_images"]):
        logits, targets = arrays[f"metric.{case}.{image}.pred_logits"], arrays[f"metric.{case}.{image}.gt"]
        for pred, target in zip(logits > 0, targets.astype(np.uint8), strict=True):
            intersection, union = intersection_and_union(pred, target)
            results.append(query_result(intersection, union, int((target == 1).any()), int(pred.any())))

    foreground = [(inter[1], union[1]) for inter, union in scalars["per_mask_inter_union"]]
    assert [(result.intersection, result.union) for result in results] == foreground
    scores = summarize(results)
    lisa_giou = scalars["giou"] * (len(results) + LISA_EPSILON) / len(results)
    assert scores["gIoU_all"] == pytest.approx(lisa_giou, abs=1e-5)
    assert sum(result.iou for result in results) / len(results) == pytest.approx(scores["gIoU_all"])
    if sum(result.union for result in results) == 0:  # LISA writes 0 for 0 / 0
        assert scores["cIoU"] is None and scalars["ciou"] == 0
    else:
        assert scores["cIoU"] == pytest.approx(scalars["ciou"], abs=1e-5)


@needs_reference
def test_every_case_of_the_reference_is_tested():
    scalars = json.loads((REFERENCE / "lisa_reference.json").read_text())
    assert {name for name in scalars if name.startswith("metric.")} == {f"metric.{case}" for case in METRIC_CASES}


def test_ignored_pixels_are_in_neither_intersection_nor_union():
    pred = np.array([[True, True, False, True]])
    target = np.array([[1, 255, 255, 0]], dtype=np.uint8)
    assert intersection_and_union(pred, target) == (1, 2)


def test_logits_and_masks_of_another_size_are_refused():
    target = np.zeros((2, 2), dtype=np.uint8)
    with pytest.raises(ValueError, match="threshold"):
        intersection_and_union(np.ones((2, 2), dtype=np.float32), target)
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        intersection_and_union(np.ones((2, 3), dtype=bool), target)
    with pytest.raises(ValueError, match="float32"):
        unite(np.ones((1, 2, 2), dtype=np.float32), (2, 2))
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        unite(np.ones((1, 2, 2), dtype=bool), (4, 4))


def test_in_a_union_foreground_wins_over_ignored_and_ignored_over_background():
    masks = np.array([[[0, 1, 255, 0]], [[255, 255, 1, 0]]], dtype=np.uint8)
    united = unite(masks, (1, 4))
    assert united.dtype == np.uint8 and united.tolist() == [[255, 1, 1, 0]]


def test_the_union_of_predictions_is_bool():
    united = unite(np.array([[[True, False, False]], [[True, True, False]]]), (1, 3))
    assert united.dtype == bool and united.tolist() == [[True, True, False]]


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_the_union_of_no_masks_is_an_empty_mask_of_the_image_size(dtype):
    united = unite(np.zeros((0, 0, 0), dtype=dtype), (2, 3))
    assert united.shape == (2, 3) and united.dtype == dtype and not united.any()


def test_plural_queries_are_scored_on_the_union_of_their_masks():
    targets = np.array([[[1, 1, 0, 0]], [[0, 0, 1, 1]]], dtype=np.uint8)
    only_one_found = np.array([[[True, True, False, False]]])
    intersection, union = intersection_and_union(unite(only_one_found, (1, 4)), unite(targets, (1, 4)))
    scores = summarize([query_result(intersection, union, 2, 1), query_result(9, 10, 1, 1)])
    assert scores["gIoU_plural"] == 0.5 and scores["count_plural"] == 1
    assert scores["gIoU"] == pytest.approx(0.7)
    assert scores["cIoU"] == pytest.approx(11 / 14)


def test_a_cut_off_answer_is_not_a_refusal():
    refused = query_result()
    rambled = query_result(complete=False)
    hallucinated = query_result(union=8, num_predictions=1)
    cut_after_a_mask = query_result(union=8, num_predictions=1, complete=False)
    scores = summarize([refused, rambled, hallucinated, cut_after_a_mask])
    assert scores["N-acc"] == 0.25
    assert scores["cut_off"] == 1
    assert scores["gIoU_all"] == 0.5  # two empty answers to empty targets


def test_target_accuracy_measures_whether_there_is_a_mask_not_where():
    missed = query_result(union=5, num_targets=1)
    wrong_place = query_result(union=9, num_targets=1, num_predictions=1)
    scores = summarize([missed, wrong_place])
    assert (scores["T-acc"], scores["gIoU"], scores["cIoU"]) == (0.5, 0.0, 0.0)


def test_a_score_over_no_queries_is_none():
    names = ("gIoU", "gIoU_all", "gIoU_plural", "cIoU", "N-acc", "T-acc")
    nothing = summarize([])
    assert [nothing[name] for name in names] == [None] * 6
    assert {name: value for name, value in nothing.items() if name not in names} == dict.fromkeys(
        ("count", "count_target", "count_no_target", "count_plural", "cut_off"), 0
    )
    only_targets = summarize([query_result(1, 2, 1, 1)])
    assert only_targets["N-acc"] is None and only_targets["gIoU_plural"] is None and only_targets["gIoU"] == 0.5
    only_refusals = summarize([query_result()])
    assert [only_refusals[name] for name in names] == [None, 1.0, None, None, 1.0, None]


def test_every_score_has_a_meaning():
    assert MEANINGS.keys() == summarize([]).keys()


def test_counts_gathered_from_all_ranks_give_the_scores_of_one_rank():
    counts = random_counts(101, seed=0)
    results = [QueryResult("s", "q", *map(int, row[:4]), bool(row[4])) for row in counts]
    per_rank = [np.array([result.numbers for result in part], dtype=np.int64) for part in (results[:40], results[40:])]
    gathered = summarize_counts(np.concatenate(per_rank))
    assert gathered == summarize(results) == summarize_counts(counts)
    assert gathered["count"] == 101 and 0 < gathered["cut_off"] < 101


def query(source, iou, num_targets=1, num_predictions=1):
    return QueryResult(source, "q", round(100 * iou), 100, num_targets, num_predictions, True)


def test_intervals_contain_the_score_and_shrink_with_the_number_of_rows():
    generator = np.random.default_rng(0)
    many = [query(f"row {number}", iou) for number, iou in enumerate(generator.random(900))]
    wide, narrow = intervals(many[:100])["gIoU"], intervals(many)["gIoU"]
    assert narrow[0] < summarize(many)["gIoU"] < narrow[1]
    assert 2 < (wide[1] - wide[0]) / (narrow[1] - narrow[0]) < 4.5
    # 1.96 standard errors of a uniform number to either side
    assert narrow[1] - narrow[0] == pytest.approx(2 * 1.96 * 12**-0.5 / 900**0.5, rel=0.15)


def test_the_questions_of_a_row_are_resampled_together():
    generator = np.random.default_rng(1)
    ious = generator.random(100)
    alone = [query(f"row {number}", iou) for number, iou in enumerate(ious)]
    repeated = [query(f"row {number}", iou) for number, iou in enumerate(ious) for _ in range(9)]
    assert np.allclose(intervals(repeated)["gIoU"], intervals(alone)["gIoU"], atol=0.005)


def test_a_score_over_no_queries_has_no_interval():
    found = intervals([query("a", 0.5), query("b", 1.0)])
    assert found["N-acc"] is None and found["gIoU_plural"] is None and found["T-acc"] == [1.0, 1.0]
    assert intervals([]) == {}


def test_counts_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        summarize_counts(np.zeros((3, 4), dtype=np.int64))


def test_scores_can_be_written_as_json():
    scores = summarize_counts(random_counts(20, seed=1))
    assert json.loads(json.dumps(scores)) == scores
