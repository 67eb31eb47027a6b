"""LISA's arithmetic: equal to the values that its own code returned, and its differences on drawn masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from judged_drawings import NOTHING, TOP_LEFT, TOP_RIGHT, judged

from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.evaluation.judging import judge
from gemma_lisa.evaluation.lisa_style import sums
from gemma_lisa.evaluation.metrics import intervals, summarize
from gemma_lisa.evaluation.records import Prediction, Question

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
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


def judged_image(name: str, predicted: np.ndarray, targets: np.ndarray) -> list:
    """Return the judged masks of an image of the reference, one question per mask (H, W)."""
    found = []
    for number, (mask, target) in enumerate(zip(predicted, targets.astype(int), strict=True)):
        ignore = encode_mask(target == 255) if (target == 255).any() else None
        wanted = [encode_mask(target == 1)] if (target == 1).any() else []
        question = Question(f"{name}#{number}", "lisa", name, None, "", "", mask.shape, wanted, ignore, [])
        found.append(judge(question, Prediction(question.id, [encode_mask(mask)] if mask.any() else [], [])))
    return found


@needs_reference
@pytest.mark.parametrize("case", METRIC_CASES)
def test_the_scores_equal_those_of_lisas_own_code(case):
    scalars = json.loads((REFERENCE / "lisa_reference.json").read_text())[f"metric.{case}"]
    arrays = np.load(REFERENCE / "lisa_reference.npz")
    answers = []
    for image in range(scalars["n_images"]):
        name = f"metric.{case}.{image}"
        answers += judged_image(name, arrays[f"{name}.pred_logits"] > 0, arrays[f"{name}.gt"])
    foreground = [(inter[1], union[1]) for inter, union in scalars["per_mask_inter_union"]]
    assert [(one.intersection, one.union) for one in answers] == foreground
    scores = summarize(answers, style="lisa")
    assert scores["gIoU"] == pytest.approx(scalars["giou"], abs=1e-6)
    assert scores["cIoU"] == pytest.approx(scalars["ciou"], abs=1e-6)
    # With one mask per question, only the epsilons differ
    assert summarize(answers)["gIoU_all"] == pytest.approx(scalars["giou"], abs=2e-5)


@needs_reference
def test_every_case_of_the_reference_is_tested():
    scalars = json.loads((REFERENCE / "lisa_reference.json").read_text())
    assert {name for name in scalars if name.startswith("metric.")} == {f"metric.{case}" for case in METRIC_CASES}


def test_masks_are_compared_in_their_order_and_missing_ones_are_empty():
    # (intersection, union): the first pair 4 / 4; the second target has no mask: 0 / 4
    iou, masks, intersection, union = sums(judged([TOP_LEFT, TOP_RIGHT], [TOP_LEFT]))
    assert (masks, intersection, union) == (2, 4, 8) and iou == pytest.approx(4 / (4 + 1e-5))
    # Swapped masks: 0 / 8 twice, although their union is right
    assert sums(judged([TOP_LEFT, TOP_RIGHT], [TOP_RIGHT, TOP_LEFT])) == (0.0, 2, 0, 16)
    # The surplus mask has no target: 0 / 4
    assert sums(judged([TOP_LEFT], [TOP_LEFT, TOP_RIGHT]))[1:] == (2, 4, 8)
    assert sums(judged([], [])) == (1.0, 1, 0, 0) == sums(judged([], [NOTHING]))


def test_ignored_pixels_are_removed_from_each_mask():
    # The second mask has 4 pixels beside its target; the ignore region holds 2 of them
    answer = judged([TOP_LEFT, TOP_RIGHT], [TOP_LEFT, "..11 ..11 ..11 ..11"], ignore=".... .... ..11 ....")
    assert sums(answer)[1:] == (2, 8, 4 + 6)


def test_both_styles_differ_for_plural_questions_only():
    answers = [judged([TOP_LEFT, TOP_RIGHT], [TOP_RIGHT, TOP_LEFT]), judged([TOP_LEFT], [TOP_LEFT], source="b")]
    exact, lisa = summarize(answers), summarize(answers, style="lisa")
    assert (exact["gIoU"], exact["cIoU"]) == (1.0, 1.0)
    # One right mask of three: 1 / 3; 4 pixels in the intersections, 8 + 8 + 4 in the unions
    assert lisa["gIoU"] == pytest.approx(1 / 3, abs=1e-5) and lisa["cIoU"] == pytest.approx(4 / 20)
    changed = {name for name in exact if exact[name] != lisa[name]}
    assert changed == {"gIoU", "cIoU"}
    low, high = intervals(answers, style="lisa")["gIoU"]
    assert low == 0.0 and high == pytest.approx(1.0, abs=1e-4)  # two rows: both draws of one of them


def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match="exact, lisa"):
        summarize([], style="coco")
