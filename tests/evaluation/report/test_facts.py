"""Numbers of the questions with masks."""

import pytest
from judged_boxes import EMPTY, WHOLE, answered, baseline, box, question

from gemma_lisa.evaluation.report.facts import best_ious, chance, facts_of, mask_scores, share_of


def test_questions_without_masks_are_not_among_the_facts():
    facts = facts_of([answered(question(0, None), text="7"), answered(question(1, [box(0, 0)]), [WHOLE])])
    assert len(facts) == 1 and facts.has_target.tolist() == [True]
    assert facts.target_shares[0] == pytest.approx(120 / 2400) and facts.prediction_shares[0] == 1


def test_an_answer_that_is_cut_off_neither_refuses_nor_answers():
    facts = facts_of([answered(question(0, [box(0, 0)]), complete=False), answered(question(1, [box(0, 0)]))])
    assert facts.answered.tolist() == [False, False] and facts.refused.tolist() == [False, True]


def test_overlapping_masks_count_once_in_the_share():
    assert share_of([box(0, 0, 10, 10), box(5, 0, 10, 10)]) == pytest.approx(150 / 2400)
    assert share_of([]) == share_of([EMPTY]) == 0


def test_a_mask_is_compared_with_the_target_that_it_fits_best():
    targets = [box(0, 0, 10, 10), box(30, 0, 10, 10)]
    judged = answered(question(0, targets), [box(30, 0, 10, 10), box(0, 0, 5, 10), box(48, 28)])
    assert best_ious(judged) == pytest.approx([1, 0.5, 0])
    assert best_ious(answered(question(1), [box(0, 0)])) == [0]


def test_the_ignore_region_is_removed_from_a_mask():
    judged = answered(question(0, [box(0, 0, 10, 10)], ignore=box(5, 0, 15, 10)), [box(0, 0, 20, 10)])
    assert best_ious(judged) == pytest.approx([1])


def test_only_answers_with_a_score_for_each_mask_are_calibrated():
    asked = question(0, [box(0, 0)])
    scores, ious = mask_scores(
        facts_of([answered(asked, [box(0, 0)], scores=[0.7]), answered(asked, [box(0, 0)]), answered(question(1))])
    )
    assert scores.tolist() == [0.7] and ious.tolist() == [1]


def test_right_masks_fit_their_own_target_better_than_others():
    own, others, error = chance(facts_of(baseline("truth", 40)))
    assert own == 1 and others < 0.5 and own - others > 10 * error


@pytest.mark.parametrize("name", ["whole", "random"])
def test_masks_that_ignore_the_question_fit_all_targets_alike(name):
    own, others, error = chance(facts_of(baseline(name, 120)))
    assert abs(own - others) < 2.5 * error + 1e-9


def test_chance_needs_ten_masks():
    assert chance(facts_of(baseline("truth", 8))) is None
    assert chance(facts_of(baseline("empty", 40))) is None
