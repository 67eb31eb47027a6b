"""Each class of error on drawn masks, the order of the decision, and what the classes cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged_drawings import BOTTOM_LEFT, BOTTOM_RIGHT, EVERYTHING, NOTHING, TOP_LEFT, TOP_RIGHT, judged

from gemma_lisa.evaluation.error_classes import CLASSES, MEANINGS, RIGHT, classify, summarize_errors
from gemma_lisa.evaluation.metrics import summarize

TOP = "1111 1111 .... ...."
THREE = "11.. 1... .... ...."  # 3 of the 4 pixels of TOP_LEFT: IoU 0.75


@pytest.mark.parametrize(
    ("name", "targets", "masks", "given"),
    [
        ("right", [TOP_LEFT], [TOP_LEFT], {}),
        ("right", [], [], {}),
        ("right", [TOP_LEFT], [TOP_LEFT], {"complete": False}),
        ("right", [TOP_LEFT, TOP_RIGHT], [TOP_RIGHT, TOP_LEFT], {}),
        ("cut off", [TOP_LEFT], [], {"complete": False}),
        ("cut off", [], [], {"complete": False}),
        ("cut off", [TOP_LEFT, TOP_RIGHT], [TOP_LEFT], {"complete": False}),
        ("presence", [TOP_LEFT], [], {}),
        ("presence", [], [TOP_LEFT], {}),
        ("presence", [], [NOTHING], {}),
        ("presence", [TOP_LEFT], [NOTHING], {}),
        ("presence", [TOP_LEFT], [TOP_LEFT], {"refused": True}),
        ("presence", [], [], {"refused": False}),
        ("selection", [TOP_LEFT], [TOP_RIGHT], {"others": [TOP_RIGHT]}),
        ("selection", [TOP_LEFT], ["111. .11. .... ...."], {"others": [".11. .11. .... ...."]}),
        ("selection", [TOP_LEFT], [BOTTOM_RIGHT], {}),  # on a thing that is not annotated
        ("selection", [TOP_LEFT, TOP_RIGHT], [TOP_LEFT, TOP_LEFT], {}),  # twice the same target
        ("selection", [TOP_LEFT, TOP_RIGHT], [TOP_LEFT, BOTTOM_LEFT], {"others": [BOTTOM_LEFT]}),
        ("selection", [TOP_LEFT, TOP_RIGHT], [BOTTOM_LEFT], {"others": [BOTTOM_LEFT]}),  # wrong before too few
        ("count", [TOP_LEFT, TOP_RIGHT], [TOP_LEFT], {}),
        ("count", [TOP_LEFT, TOP_RIGHT], [TOP], {}),  # one mask for both
        ("count", [TOP_LEFT], [TOP_LEFT, BOTTOM_LEFT], {"others": [BOTTOM_LEFT]}),
        ("count", [TOP_LEFT], [TOP_LEFT, NOTHING], {}),
        ("boundary", [TOP_LEFT], [THREE], {}),
        ("boundary", [TOP_LEFT], [TOP], {}),
        ("boundary", [TOP_LEFT], [EVERYTHING], {}),
        ("boundary", [TOP_LEFT, TOP_RIGHT], [TOP, TOP_RIGHT], {}),  # the union is right, a mask overlaps
    ],
)
def test_every_error_has_its_class(name, targets, masks, given):
    found = judged(targets, masks, **given).error
    assert (found or RIGHT) == name


def test_the_same_thing_asked_for_by_another_question_is_no_other_thing():
    # The prediction equals the other mask, whose IoU with the target is 4 / 5: one thing, drawn twice
    assert judged([TOP_LEFT], ["11.. 11.. 1... ...."], others=["11.. 11.. 1... ...."]).error is None
    # With an IoU of 4 / 6, it is another thing
    assert judged([TOP_LEFT], ["11.. 11.. 11.. ...."], others=["11.. 11.. 11.. ...."]).error == "selection"


def test_other_things_are_compared_only_if_there_is_an_error():
    def other_ious():
        raise AssertionError("not needed")

    assert classify(1, True, True, 0.9, np.array([[0.9]]), other_ious) is None


numbers = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), st.integers(0, 2**32 - 1))


@given(numbers, st.booleans(), st.sampled_from([None, True, False]))
def test_every_question_has_exactly_one_class(shape, complete, refused):
    num_targets, num_masks, num_others, seed = shape
    generator = np.random.default_rng(seed)

    def draw(count):
        grids = generator.random((count, 4, 4)) < generator.choice([0.1, 0.5, 0.9])
        return [" ".join("".join(".1"[int(bit)] for bit in line) for line in grid) for grid in grids]

    one = judged(draw(num_targets), draw(num_masks), others=draw(num_others), complete=complete, refused=refused)
    assert one.error is None or one.error in CLASSES
    if one.error is None and num_targets:
        assert one.iou >= 0.8 and num_masks == num_targets


def test_the_costs_and_the_shares_have_the_right_sums():
    answers = [
        judged([TOP_LEFT], [TOP_LEFT]),  # cost 0
        judged([TOP_LEFT], [THREE]),  # 1 - 3/4
        judged([TOP_LEFT], []),  # 1
        judged([TOP_LEFT, TOP_RIGHT], [TOP_LEFT]),  # 1 - 4/8
        judged([], []),  # 0
    ]
    errors = summarize_errors(answers)
    assert {name: row["cost"] for name, row in errors.items()} == {
        "cut off": 0,
        "presence": pytest.approx(1 / 5),
        "selection": 0,
        "count": pytest.approx(0.5 / 5),
        "boundary": pytest.approx(0.25 / 5),
        "right": 0,
    }
    assert sum(row["cost"] for row in errors.values()) == pytest.approx(1 - summarize(answers)["gIoU_all"])
    assert sum(row["share"] for row in errors.values()) == pytest.approx(1)
    assert [errors[name]["count"] for name in ("presence", "right")] == [1, 2]
    assert MEANINGS.keys() == errors.keys() == {*CLASSES, RIGHT}
    assert sum(row["count"] for row in summarize_errors([]).values()) == 0


def test_a_mean_of_exactly_the_limit_is_right():
    ious = np.diag([0.6, 0.9, 0.9])  # their mean is 0.7999999999999999 in floating point
    assert classify(3, True, True, 0.8, ious, lambda: np.zeros((3, 0))) is None
    assert classify(3, True, True, 0.8, ious - 0.001, lambda: np.zeros((3, 0))) == "boundary"
    assert classify(1, True, True, 4 / 5, np.array([[4 / 5]]), lambda: np.zeros((1, 0))) is None
