"""Figures and the numbers of their tables."""

from judged_boxes import baseline, mixed

from gemma_lisa.evaluation.error_classes import summarize_errors
from gemma_lisa.evaluation.report.facts import facts_of, mask_scores
from gemma_lisa.evaluation.report.figures import figures_of


def figures(judged) -> dict:
    facts = facts_of(judged)
    found = figures_of(facts, summarize_errors(judged), *mask_scores(facts))
    return {one.heading.split("?")[0].split(":")[0]: one for one in found}


def test_the_tables_count_every_question_with_a_target():
    judged = mixed(80)
    found = figures(judged)
    assert sum(int(row[1]) for row in found["How well the masks fit"].rows) == 60
    assert sum(int(row[2]) for row in found["Small and large targets"].rows) == 60
    assert sum(int(row[1]) for row in found["What the errors cost"].rows) == 80


def test_costs_add_up_to_the_lost_iou():
    judged = mixed(80)
    lost = 1 - sum(one.iou for one in judged) / len(judged)
    costs = sum(float(row[3]) for row in figures(judged)["What the errors cost"].rows)
    assert abs(costs - lost) < 0.004  # six rounded numbers


def test_systems_without_scores_have_no_calibration():
    assert "Can its own scores be trusted" in figures(mixed())
    assert "Can its own scores be trusted" not in figures(baseline("truth"))


def test_without_questions_there_are_no_figures():
    facts = facts_of([])
    assert figures_of(facts, {}, *mask_scores(facts)) == []
