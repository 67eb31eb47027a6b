"""Judge predictions of drawn masks. Each expected value is counted on the 4 x 4 drawings."""

import tracemalloc

import numpy as np
import pytest
from judged_drawings import (
    BOTTOM_LEFT,
    EVERYTHING,
    NOTHING,
    TOP_LEFT,
    TOP_RIGHT,
    answered,
    judged,
    rle,
)

from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.evaluation.judging import judge, refuses, says_present
from gemma_lisa.evaluation.mask_arrays import intersection_and_union
from gemma_lisa.evaluation.records import Prediction, Question


def test_the_iou_is_of_the_united_masks_and_the_united_targets():
    # Targets: 4 + 4 pixels in the top rows. Prediction: the top left ones and the 4 below. 4 in both, 12 in either
    one = judged([TOP_LEFT, TOP_RIGHT], [TOP_LEFT, BOTTOM_LEFT])
    assert (one.intersection, one.union) == (4, 12) and one.iou == pytest.approx(1 / 3)
    assert one.matched_ious == [1.0, 0.0] and one.ordered_ious == [1.0, 0.0]


def test_swapped_masks_cost_only_in_their_order():
    one = judged([TOP_LEFT, TOP_RIGHT], [TOP_RIGHT, TOP_LEFT])
    assert one.iou == 1.0 and one.matched_ious == [1.0, 1.0] and one.ordered_ious == [0.0, 0.0]


def test_overlapping_masks_cost_although_their_union_is_right():
    # The first mask has 8 pixels, 4 of them in each target: IoU 4 / 8. The second fits its target
    one = judged([TOP_LEFT, TOP_RIGHT], ["1111 1111 .... ....", TOP_RIGHT])
    assert one.iou == 1.0 and one.matched_ious == [0.5, 1.0]


def test_ignored_pixels_are_in_neither_number_unless_they_are_in_a_target():
    # Prediction: the top rows (8). Target: top left (4). Ignored: the right half and column 1, which holds 2 target
    # pixels; these stay. The prediction keeps its 4 pixels in columns 0 and 1
    one = judged([TOP_LEFT], ["1111 1111 .... ...."], ignore=".111 .111 .111 .111")
    assert (one.intersection, one.union) == (4, 4) and one.iou == 1.0 and one.matched_ious == [1.0]
    kept = judged([TOP_LEFT], ["1111 1111 .... ...."], ignore="...1 ...1 ...1 ...1")
    assert (kept.intersection, kept.union) == (4, 6)  # column 3 is removed, column 2 is wrong


@pytest.mark.parametrize("seed", range(5))
def test_random_masks_are_judged_as_arrays_are(seed):
    generator = np.random.default_rng(seed)
    drawn = [
        " ".join("".join(".1"[bit] for bit in line) for line in generator.integers(0, 2, (6, 5))) for _ in range(5)
    ]
    one = judged(drawn[:2], drawn[2:4], ignore=drawn[4])
    arrays = [np.array([[c == "1" for c in line] for line in text.split()]) for text in drawn]
    target = np.where(arrays[4], 255, 0).astype(np.uint8)
    target[arrays[0] | arrays[1]] = 1
    assert (one.intersection, one.union) == intersection_and_union(arrays[2] | arrays[3], target)


def test_nothing_predicted_and_nothing_asked_for_is_right():
    one = judged([], [])
    assert (one.iou, one.boundary_iou, one.matched_ious, one.error) == (1.0, None, [], None)
    assert judged([], [NOTHING]).iou == 1.0  # an empty mask has no wrong pixel, but it is no refusal
    assert judged([], [TOP_LEFT]).iou == 0.0


@pytest.mark.parametrize(
    ("given", "present", "refused"),
    [
        ({"masks": []}, False, True),
        ({"masks": [rle(NOTHING)]}, True, False),
        ({"masks": [], "complete": False}, False, False),
        ({"masks": [rle(TOP_LEFT)], "refused": True}, False, True),
        ({"masks": [], "refused": False}, True, False),
    ],
)
def test_presence_is_read_from_the_masks_or_from_the_first_token(given, present, refused):
    prediction = Prediction("row#0", given.pop("masks"), [], **given)
    assert (says_present(prediction), refuses(prediction)) == (present, refused)


def test_a_boundary_of_whole_masks_is_compared():
    # d = 1. The whole image has a boundary of 12 pixels. All 4 pixels of the square in the corner are boundary.
    # One of them, (1, 1), is not on the boundary of the image: 3 in both, 13 in either
    assert judged([EVERYTHING], [TOP_LEFT]).boundary_iou == pytest.approx(3 / 13)


def test_vqa_answers_are_compared_without_case_spaces_and_full_stop():
    assert answered(" Two  cups ", "two cups.").is_right and not answered("three", "two").is_right
    assert not answered(None, "two").is_right and answered("2", "2").question.targets is None


def test_wrong_predictions_are_refused_in_one_line():
    question = Question("row#0", "drawn", "row", None, "", "", (4, 4), [rle(TOP_LEFT)], None, [])
    for prediction, words in (
        (Prediction("row#1", [], []), "row#1"),
        (Prediction("row#0", [rle("1.. 1.. ...")], []), r"row#0: .*size \[3, 3\]"),
        (Prediction("row#0", [{"size": [4, 4], "counts": "0"}], []), "row#0: invalid mask RLE"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            judge(question, prediction)
        assert "\n" not in str(caught.value)


def test_memory_grows_with_the_things_and_not_with_the_image():
    height, width = 4000, 6000
    mask = np.zeros((height, width), np.uint8)
    mask[1000:1200, 2000:2300] = 1
    target, ignored = encode_mask(mask), encode_mask(np.roll(mask, 100, axis=1))
    question = Question("row#0", "drawn", "row", None, "", "", (height, width), [target], ignored, [])
    prediction = Prediction("row#0", [encode_mask(np.roll(mask, 50, axis=0))], [])
    tracemalloc.start()
    try:
        one = judge(question, prediction)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 < one.iou < 1 and 0 < one.boundary_iou < 1
    assert peak < height * width / 8  # bytes; one decoded mask has a byte per pixel
