"""Scores: worked out on drawn masks, equal to SAM 3's code where both are defined, and their bootstrap intervals."""

import json

import numpy as np
import pytest
import torch
from counts import random_counts
from judged_drawings import BOTTOM_LEFT, BOTTOM_RIGHT, NOTHING, TOP_LEFT, TOP_RIGHT, answered, judged
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.functional import jaccard_index, matthews_corrcoef

from gemma_lisa.evaluation.metrics import (
    MEANINGS,
    NUM_COUNTS,
    intervals,
    resampled_totals,
    summarize,
    summarize_counts,
)

THREE = "11.. 1... .... ...."  # 3 of the 4 pixels of TOP_LEFT: IoU 0.75


def test_giou_ciou_and_precision():
    # IoU 1 (4 / 4), 0.75 (3 / 4), 0 (0 / 8), and 1 for the refusal
    scores = summarize(
        [judged([TOP_LEFT], [TOP_LEFT]), judged([TOP_LEFT], [THREE]), judged([TOP_LEFT], [TOP_RIGHT]), judged([], [])]
    )
    assert scores["gIoU"] == pytest.approx(1.75 / 3) and scores["gIoU_all"] == pytest.approx(2.75 / 4)
    assert scores["cIoU"] == pytest.approx(7 / 16)
    assert [scores[f"P@{least}"] for least in (0.5, 0.7, 0.9)] == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    assert summarize([judged([TOP_LEFT], ["11.. .... .... ...."])])["P@0.5"] == 1.0  # IoU 0.5 is enough


def test_giou_for_each_number_of_targets():
    four = [TOP_LEFT, TOP_RIGHT, BOTTOM_LEFT, BOTTOM_RIGHT]
    scores = summarize([judged(four[:count], [TOP_LEFT]) for count in (1, 2, 3, 4)])
    # One of 1, 2, 3 and 4 squares of 4 pixels is found
    assert [scores[name] for name in ("gIoU_1", "gIoU_2", "gIoU_3", "gIoU_4+")] == pytest.approx(
        [1, 1 / 2, 1 / 3, 1 / 4]
    )
    assert scores["gIoU_plural"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)


def test_instance_scores_of_plural_questions():
    both = [TOP_LEFT, TOP_RIGHT]
    # Matched IoUs 0.75 and 1: mean 0.875. At IoU 0.5 to 0.75 (6 thresholds) 2 pairs are found, above (4) one.
    # F1 = 2 TP / (masks + targets) = 1 for 6 thresholds, 0.5 for 4
    one = judged(both, [THREE, TOP_RIGHT])
    assert summarize([one])["instance_IoU"] == pytest.approx(0.875)
    assert summarize([one])["instance_F1"] == pytest.approx(0.6 * 1 + 0.4 * 0.5)
    # A third mask: 1.75 / 3, and F1 = 4 / 5 and 2 / 5
    surplus = judged(both, [THREE, TOP_RIGHT, BOTTOM_LEFT])
    assert summarize([surplus])["instance_IoU"] == pytest.approx(1.75 / 3)
    assert summarize([surplus])["instance_F1"] == pytest.approx(0.6 * 0.8 + 0.4 * 0.4)
    # Overlapping masks: the first has IoU 0.5. Swapped masks: only their order is wrong
    overlapping = summarize([judged(both, ["1111 1111 .... ....", TOP_RIGHT])])
    assert overlapping["gIoU"] == 1.0 and overlapping["instance_IoU"] == pytest.approx(0.75)
    swapped = summarize([judged(both, [TOP_RIGHT, TOP_LEFT])])
    assert swapped["instance_IoU"] == 1.0 and swapped["instance_IoU_ordered"] == 0.0
    # Questions with one target are no plural questions
    assert summarize([judged([TOP_LEFT], [TOP_LEFT])])["instance_IoU"] is None


def test_presence():
    answers = [judged([TOP_LEFT], [TOP_LEFT])] * 3 + [judged([TOP_LEFT], [])] + [judged([], [])] * 2
    answers += [judged([], [TOP_LEFT]), judged([], [], complete=False)]
    scores = summarize(answers)
    # 3 of 4 targets got a mask. 2 of 4 absent ones were refused: a cut-off answer is no refusal
    assert (scores["T-acc"], scores["N-acc"], scores["cut_off"]) == (0.75, 0.5, 1)
    assert scores["cut_off_share"] == pytest.approx(1 / 8)
    # TP 3, FN 1, TN 2, FP 2: (3 · 2 - 2 · 1) / √(5 · 4 · 4 · 3)
    assert scores["presence_MCC"] == pytest.approx(4 / 240**0.5)
    # 3 pairs with IoU 1 for 3 masks and 4 targets: F1 = 6 / 7
    assert scores["pmF1"] == pytest.approx(6 / 7)
    assert scores["cgF1"] == pytest.approx(6 / 7 * 4 / 240**0.5)


def test_presence_without_information_is_0_and_without_both_kinds_of_questions_it_is_not_defined():
    always = [judged([TOP_LEFT], [TOP_LEFT]), judged([], [TOP_LEFT])]
    never = [judged([TOP_LEFT], []), judged([], [])]
    assert summarize(always)["presence_MCC"] == summarize(never)["presence_MCC"] == 0.0
    assert summarize(always[:1])["presence_MCC"] is None and summarize(always[:1])["cgF1"] is None
    assert summarize([judged([TOP_LEFT], [TOP_LEFT]), judged([], [])])["presence_MCC"] == 1.0


def sam3_scores(answers) -> tuple[float, float, float]:
    """Return pmF1, IL_MCC and cgF1 with the sums and epsilons of sam3/eval/cgf1_eval.py (commit 99d02f2)."""
    thresholds = np.linspace(0.5, 0.95, 10)
    found, surplus, missed = np.zeros(10), np.zeros(10), np.zeros(10)
    table = np.zeros((2, 2))  # [target, mask]
    for one in answers:
        targets, masks = len(one.question.targets), len(one.prediction.masks)
        table[int(targets > 0), int(masks > 0)] += 1
        if targets:
            hits = (np.array(one.matched_ious)[:, None] >= thresholds).sum(axis=0)
            found, surplus, missed = found + hits, surplus + masks - hits, missed + targets - hits
    precision, recall = found / (found + surplus + 1e-4), found / (found + missed + 1e-4)
    f1 = 2 * precision * recall / (precision + recall + 1e-4)
    (rejections, alarms), (misses, hits) = table
    mcc = (hits * rejections - alarms * misses) / (
        ((hits + alarms) * (hits + misses) * (rejections + alarms) * (rejections + misses)) ** 0.5 + 1e-6
    )
    return f1.mean(), mcc, (f1 * mcc).mean()


def test_cgf1_equals_sam_3_up_to_its_epsilons():
    generator = np.random.default_rng(3)
    squares = [TOP_LEFT, TOP_RIGHT, BOTTOM_LEFT, BOTTOM_RIGHT, THREE, NOTHING]
    answers = []
    for number in range(150):
        drawn = [list(generator.permutation(squares[:4])[: generator.integers(0, 4)]), []]
        for square in drawn[0]:
            if generator.random() < 0.8:
                drawn[1].append(THREE if square == TOP_LEFT and generator.random() < 0.5 else square)
        drawn[1] += [squares[generator.integers(6)]] if generator.random() < 0.3 else []
        answers.append(judged(*drawn, source=f"row {number}"))
    scores = summarize(answers)
    assert [scores[name] for name in ("pmF1", "presence_MCC", "cgF1")] == pytest.approx(sam3_scores(answers), abs=2e-4)


def random_answers(count: int) -> list:
    """Return answers on separate squares of 2 x 2 pixels, some of them with a missing pixel, missing or surplus."""
    generator = np.random.default_rng(count)
    squares = [TOP_LEFT, TOP_RIGHT, BOTTOM_LEFT, BOTTOM_RIGHT]
    answers = []
    for number in range(count):
        targets = list(generator.permutation(squares)[: generator.integers(0, 5)])
        masks = [THREE if square == TOP_LEFT and generator.random() < 0.5 else square for square in targets]
        masks = [mask for mask in masks if generator.random() < 0.8]
        masks += [squares[generator.integers(4)]] if generator.random() < 0.2 else []
        answers.append(judged(targets, masks, source=f"row {number}"))
    return answers


def test_pmf1_equals_the_matches_of_cocoeval(capsys):
    answers = random_answers(60)
    images = [{"id": number, "height": 4, "width": 4} for number in range(1, 61)]
    content = {"images": images, "categories": [{"id": 1}], "annotations": []}
    results = []
    for number, one in enumerate(answers, 1):
        for records, masks in ((content["annotations"], one.question.targets), (results, one.prediction.masks)):
            for mask in masks:
                record = {"id": len(records) + 1, "image_id": number, "category_id": 1, "segmentation": mask}
                records.append(record | {"area": 4, "iscrowd": 0, "score": 1.0})
    truth = COCO()
    truth.dataset = content
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(results), "segm")
    evaluation.params.areaRng = evaluation.params.areaRng[:1]
    evaluation.evaluate()
    capsys.readouterr()
    found = sum((image["dtMatches"] > 0).sum(axis=1) for image in evaluation.evalImgs if image is not None)  # (10,)
    numbers = [len(one.question.targets) + len(one.prediction.masks) for one in answers if one.question.targets]
    assert summarize(answers)["pmF1"] == pytest.approx((2 * found / sum(numbers)).mean())


def test_the_iou_and_the_correlation_equal_those_of_torchmetrics():
    answers = random_answers(40)
    has_target = torch.tensor([bool(one.question.targets) for one in answers])
    has_mask = torch.tensor([bool(one.prediction.masks) for one in answers])
    expected = matthews_corrcoef(has_mask, has_target, task="binary").item()
    assert summarize(answers)["presence_MCC"] == pytest.approx(expected, abs=1e-6)
    for one in answers:
        if not one.union:
            continue
        united = [
            torch.tensor(np.any([coco_mask.decode(mask) for mask in masks], axis=0)) if masks else torch.zeros(4, 4)
            for masks in (one.prediction.masks, one.question.targets)
        ]
        assert one.iou == pytest.approx(jaccard_index(*(mask.int() for mask in united), task="binary").item())


def test_boundary_iou_is_a_mean_over_questions_with_a_target():
    # 1, 0 for a missing mask, and 3 / 4: all pixels of both masks are boundary
    answers = [judged([TOP_LEFT], [TOP_LEFT]), judged([TOP_LEFT], []), judged([TOP_LEFT], [THREE]), judged([], [])]
    assert summarize(answers)["boundary_IoU"] == pytest.approx(1.75 / 3)


def test_text_time_and_likelihood():
    answers = [
        judged([], [], tokens=4, seconds=1.0),
        judged([], [], tokens=8),
        answered("two", "two", likelihood=-0.5, seconds=2.0),
        answered("one", "two", likelihood=-1.5),
    ]
    scores = summarize(answers)
    assert (scores["tokens"], scores["seconds_per_question"], scores["likelihood"]) == (6.0, 1.5, -1.0)
    assert (scores["answers_right"], scores["answers_count"], scores["count"]) == (0.5, 2, 2)


def test_teacher_forcing_has_no_scores_of_the_models_own_words():
    scores = summarize([judged([TOP_LEFT], [TOP_LEFT], tokens=3), judged([], [])], "teacher_forced")
    hidden = {"gIoU_all", "phrase_acc", "answers_right", "cut_off_share", "tokens"}
    assert {name for name in hidden if scores[name] is None} == hidden and scores["gIoU"] == 1.0


def test_a_score_over_no_questions_is_none():
    scores = summarize([])
    counts = {name for name, value in scores.items() if value is not None}
    assert {scores[name] for name in counts} == {0}
    assert counts == {name for name in scores if name.startswith(("count", "phrases_", "answers_count"))} | {"cut_off"}
    assert intervals([]) == {}


def test_every_score_has_a_meaning_and_can_be_written_as_json():
    for answers in ([], [judged([TOP_LEFT], [THREE])], [answered("two", "two")]):
        scores = summarize(answers)
        assert list(scores) == list(MEANINGS)
        assert json.loads(json.dumps(scores)) == scores
        assert intervals(answers).keys() <= scores.keys()


# ---------------------------------------------------------------------------------------------------------------------
# Intervals
# ---------------------------------------------------------------------------------------------------------------------
def rows_of(ious, repeats=1):
    """Return answers with these IoUs in hundredths, `repeats` questions per row."""
    line = "1" * 100
    return [
        judged([line], ["1" * round(100 * iou) + "." * (100 - round(100 * iou))], source=f"row {number}")
        for number, iou in enumerate(ious)
        for _ in range(repeats)
    ]


def test_intervals_contain_the_score_and_shrink_with_the_number_of_rows():
    many = rows_of(np.random.default_rng(0).uniform(0.01, 1, 900))
    wide, narrow = intervals(many[:100])["gIoU"], intervals(many)["gIoU"]
    assert narrow[0] < summarize(many)["gIoU"] < narrow[1]
    assert 2 < (wide[1] - wide[0]) / (narrow[1] - narrow[0]) < 4.5
    # 1.96 standard errors of a uniform number to either side
    assert narrow[1] - narrow[0] == pytest.approx(2 * 1.96 * 0.99 * 12**-0.5 / 900**0.5, rel=0.15)


def test_the_questions_of_a_row_are_resampled_together():
    ious = np.random.default_rng(1).uniform(0.01, 1, 60)
    alone, repeated = intervals(rows_of(ious)), intervals(rows_of(ious, repeats=5))
    assert np.allclose(repeated["gIoU"], alone["gIoU"], atol=0.005)


def test_every_score_is_resampled_with_its_own_formula():
    answers = [judged([TOP_LEFT], [TOP_LEFT], source="a"), judged([], [], source="b")]
    # Both rows: MCC 1. One row twice: not defined, so these resamples are skipped
    assert intervals(answers)["presence_MCC"] == [1.0, 1.0]
    assert intervals(answers)["N-acc"] == [1.0, 1.0] and intervals(answers)["gIoU_plural"] is None


def test_resampled_totals_are_sums_over_drawn_rows():
    columns = {"one": np.array([1.0, 1.0, 1.0]), "ten": np.tile([[1.0], [2.0], [4.0]], (1, 10))}
    totals = resampled_totals(columns, np.array([0, 0, 1]), resamples=250, seed=0)
    # Two draws of row 0 (2 questions, sum 3) and row 1 (1 question, sum 4)
    assert set(totals["one"]) == {2.0, 3.0, 4.0}
    assert totals["ten"].shape == (250, 10) and set(totals["ten"][:, 3]) == {6.0, 7.0, 8.0}
    again = resampled_totals(columns, np.array([0, 0, 1]), resamples=250, seed=0)
    assert (again["one"] == totals["one"]).all()


# ---------------------------------------------------------------------------------------------------------------------
# Scores of counts, as training logs them
# ---------------------------------------------------------------------------------------------------------------------
def test_counts_and_judged_answers_have_the_same_scores():
    answers = [
        judged([TOP_LEFT], [THREE]),
        judged([TOP_LEFT, TOP_RIGHT], [TOP_LEFT]),
        judged([], []),
        judged([], [], complete=False),
        judged([], [TOP_LEFT]),
        judged([TOP_LEFT], []),
    ]
    counts = [
        [one.intersection, one.union, len(one.question.targets), len(one.prediction.masks), one.prediction.complete]
        for one in answers
    ]
    scores = summarize(answers)
    for name, value in summarize_counts(np.array(counts, dtype=np.int64)).items():
        assert scores[name] == pytest.approx(value), name


def test_a_cut_off_answer_is_not_a_refusal():
    # refused, cut off, a mask of nothing, cut off after a mask
    counts = np.array([[0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 8, 0, 1, 1], [0, 8, 0, 1, 0]])
    scores = summarize_counts(counts)
    assert (scores["N-acc"], scores["cut_off"], scores["gIoU_all"]) == (0.25, 1, 0.5)


def test_counts_without_questions_have_no_scores():
    names = ("gIoU", "gIoU_all", "gIoU_plural", "cIoU", "N-acc", "T-acc")
    nothing = summarize_counts(np.zeros((0, NUM_COUNTS), dtype=np.int64))
    assert [nothing.pop(name) for name in names] == [None] * 6 and set(nothing.values()) == {0}


def test_counts_gathered_from_all_ranks_give_the_scores_of_one_rank():
    counts = random_counts(101, seed=0)
    gathered = summarize_counts(np.concatenate([counts[:40], counts[40:]]))
    assert gathered == summarize_counts(counts) and gathered["count"] == 101


def test_counts_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        summarize_counts(np.zeros((3, 4), dtype=np.int64))


def test_phrases_in_the_text_are_counted_like_given_ones():
    names = [["red star"], []]
    for given in ({"text": "The red star [SEG]."}, {"phrases": ["red star"]}):
        scores = summarize([judged([TOP_LEFT], [TOP_LEFT], dataset="shapes/hard", names=names, **given)])
        assert (scores["phrase_acc"], scores["phrases_judged"], scores["phrases_not_judged"]) == (1.0, 1, 0)
    scores = summarize([judged([TOP_LEFT], [TOP_LEFT], dataset="shapes/hard", names=names, text="A pretty dog [SEG].")])
    assert (scores["phrase_acc"], scores["phrases_judged"], scores["phrases_not_judged"]) == (None, 0, 1)
