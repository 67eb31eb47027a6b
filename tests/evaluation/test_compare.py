"""Comparison of two results of the same questions."""

from dataclasses import replace

import numpy as np
import pytest
from judged_boxes import answered, baseline, box, contents, mixed, question

from gemma_lisa.evaluation.compare import (
    changes_of,
    compare,
    compare_files,
    largest_changes,
    paired_differences,
    transition_rows,
)
from gemma_lisa.evaluation.error_classes import CLASSES, RIGHT
from gemma_lisa.evaluation.metrics import intervals
from gemma_lisa.evaluation.results_file import write_results


def compared(a, b):
    return compare(contents(a), a, contents(b), b)


def test_a_result_is_equal_to_itself():
    found = paired_differences(mixed(), mixed())
    assert found["gIoU"]["a"] == found["gIoU"]["b"]
    assert all(of["difference"] == of["low"] == of["high"] == 0 for of in found.values())


def test_the_interval_of_a_constant_difference_has_no_width():
    # Every target loses half of its mask in B, whatever the row: the difference is -0.5 in every resample
    asked = [question(at, [box(3, 3)]) for at in range(20)]
    a = [answered(one, [box(3, 3)]) for one in asked]
    b = [answered(one, [box(3, 3, 6)]) for one in asked]
    found = paired_differences(a, b)["gIoU"]
    assert (found["difference"], found["low"], found["high"]) == pytest.approx((-0.5, -0.5, -0.5))


def test_paired_intervals_are_narrower_than_those_of_each_result():
    a = mixed(80)
    b = [answered(one.question, [box(0, 0)]) if at == 0 else one for at, one in enumerate(a)]
    low, high = intervals(a)["gIoU"]
    found = paired_differences(a, b)["gIoU"]
    assert found["high"] - found["low"] < 0.5 * (high - low)


def test_the_interval_equals_a_bootstrap_of_the_differences():
    a, b = mixed(80), baseline("truth", 80)
    gains = np.array([y.iou - x.iou for x, y in zip(a, b, strict=True) if x.question.targets])
    draws = np.random.default_rng(5).choice(gains, (4000, len(gains))).mean(axis=1)
    found = paired_differences(a, b)["gIoU"]
    assert found["difference"] == pytest.approx(gains.mean())
    assert (found["low"], found["high"]) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.02)


def test_scores_that_one_result_does_not_have_are_not_compared():
    found = paired_differences(mixed(), mixed())
    assert "likelihood" not in found and "answers_right" not in found and "gIoU" in found
    assert paired_differences([], []) == {}


def test_changes_of_a_question():
    there, absent, words = question(0, [box(0, 0)]), question(1), question(2, None, expected="7")
    right, half, none = answered(there, [box(0, 0)]), answered(there, [box(0, 0, 5)]), answered(there)
    assert changes_of(right, right) == set()
    assert changes_of(half, right) == {"better", "found"} and changes_of(right, half) == {"worse", "lost"}
    assert changes_of(none, right) == {"better", "found", "now answered"}
    assert changes_of(right, none) == {"worse", "lost", "now refused"}
    assert changes_of(answered(absent), answered(absent, [box(0, 0)])) == {"worse", "now answered"}
    assert changes_of(answered(words, text="7"), answered(words, text="8")) == {"now wrong"}
    assert changes_of(answered(words, text="8"), answered(words, text="7")) == {"now right"}
    cut_off = answered(there, complete=False)
    assert changes_of(cut_off, right) == {"better", "found"}


def test_counts_transitions_and_largest_changes_agree():
    found = compared(mixed(80), baseline("truth", 80))
    better, worse = largest_changes(found)
    assert len(better) == found.change_counts["better"] > 0 == found.change_counts["worse"] == len(worse)
    gains = [found.judged_b[at].iou - found.judged_a[at].iou for at in better]
    assert gains == sorted(gains, reverse=True)
    rows = dict(transition_rows(found))
    assert list(rows) == [RIGHT, *CLASSES] and sum(sum(row) for row in rows.values()) == 80
    assert all(sum(row[1:]) == 0 for row in rows.values()), "truth has no errors"


def test_kinds_have_their_own_differences():
    found = compared(mixed(80), baseline("truth", 80))
    assert set(found.by_kind) == {"single", "plural", "absent"}
    assert found.by_kind["single"]["gIoU"]["b"] == 1 and "N-acc" in found.by_kind["absent"]


def saved(folder, name: str, judged, **facts):
    path = folder / f"{name}.json"
    write_results(path, contents(judged, **facts), judged)
    return path


def test_files_give_the_same_comparison(tmp_path):
    a, b = mixed(), baseline("truth")
    found = compare_files(saved(tmp_path, "a", a), saved(tmp_path, "b", b))
    assert found.differences == compared(a, b).differences
    assert found.change_counts == compared(a, b).change_counts


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"fingerprint": "cd" * 32}, "different fingerprints, abababababab and cdcdcdcdcdcd"),
        ({"protocol": "teacher_forced"}, "different protocols, 'generate' and 'teacher_forced'"),
        ({"style": "lisa"}, "different metric styles, 'exact' and 'lisa'"),
    ],
)
def test_results_that_were_made_in_another_way_are_refused(tmp_path, facts, named):
    a = saved(tmp_path, "a", mixed())
    b = saved(tmp_path, "b", mixed(), **facts)
    with pytest.raises(ValueError, match=named) as caught:
        compare_files(a, b)
    assert "a.json" in str(caught.value) and "b.json" in str(caught.value) and "\n" not in str(caught.value)


def test_other_questions_are_refused_with_the_first_that_is_missing(tmp_path):
    a, b = saved(tmp_path, "a", mixed(24)), saved(tmp_path, "b", mixed(20))
    for first, second in ((a, b), (b, a)):
        with pytest.raises(
            ValueError, match=r"b.json has no answer to 4 questions of .*a.json, such as boxes/test/0020#0"
        ):
            compare_files(first, second)


def test_another_order_and_other_targets_are_refused(tmp_path):
    judged = mixed()
    a = saved(tmp_path, "a", judged)
    with pytest.raises(ValueError, match=r"in another order, first at boxes/test/0000#0"):
        compare_files(a, saved(tmp_path, "b", judged[::-1]))
    changed = [replace(judged[0], question=replace(judged[0].question, text="another")), *judged[1:]]
    with pytest.raises(ValueError, match=r"ask boxes/test/0000#0 with different texts or targets"):
        compare_files(a, saved(tmp_path, "c", changed))


def test_a_missing_questions_file_is_refused(tmp_path):
    a, b = saved(tmp_path, "a", mixed()), saved(tmp_path, "b", mixed())
    (tmp_path / "b.questions.parquet").unlink()
    with pytest.raises(ValueError, match=r"b.questions.parquet") as caught:
        compare_files(a, b)
    assert "\n" not in str(caught.value)
