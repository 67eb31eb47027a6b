"""Scores of a data set and of its kinds."""

import pytest
from judged_boxes import answered, contents, mixed, question

from gemma_lisa.evaluation.metrics import MEANINGS, intervals, summarize
from gemma_lisa.evaluation.report.facts import facts_of
from gemma_lisa.evaluation.report.pane import AMOUNTS, MAIN, pane_of, presence_table, score_rows


def test_every_score_is_in_exactly_one_list():
    judged = mixed(40)
    content = contents(judged)
    pane = pane_of("", content, judged)
    shown = [row.name for row in pane["main_scores"] + pane["other_scores"]] + pane["unknown_scores"]
    assert sorted(shown) == sorted(name for name, value in content["scores"].items() if not isinstance(value, int))
    assert len(pane["counts"]) == sum(isinstance(value, int) for value in content["scores"].values())
    assert set(MAIN) | set(AMOUNTS) <= set(MEANINGS)


def test_values_and_intervals_are_those_of_the_results_file():
    judged = mixed(40)
    content = contents(judged)
    rows = {row.name: row for row in score_rows(content["scores"], content["intervals"])}
    low, high = content["intervals"]["gIoU"]
    assert rows["gIoU"].value == f"{content['scores']['gIoU']:.3f}"
    assert rows["gIoU"].interval == f"{low:.3f} to {high:.3f}" and "<svg" in rows["gIoU"].picture
    assert rows["gIoU"].meaning == MEANINGS["gIoU"]
    assert rows["tokens"].picture == "" and rows["likelihood"].value == "–"


def test_a_kind_has_its_own_scores_and_intervals():
    judged = mixed(48)
    kind = [one for one in judged if one.question.kind == "plural"]
    pane = pane_of("plural", contents(judged), kind)
    (row,) = [row for row in pane["main_scores"] if row.name == "gIoU_plural"]
    low, high = intervals(kind)["gIoU_plural"]
    assert row.value == f"{summarize(kind)['gIoU_plural']:.3f}" and row.interval == f"{low:.3f} to {high:.3f}"
    assert pane["num_questions"] == pane["num_rows"] == len(kind)


def test_scores_of_both_styles_are_side_by_side():
    judged = mixed(40)
    content = contents(judged) | {"style": "lisa", "exact_scores": summarize(judged)}
    content["scores"] = summarize(judged, style="lisa")
    pane = pane_of("", content, judged)
    assert pane["has_exact"] and pane["main_scores"][0].exact == f"{content['exact_scores']['gIoU']:.3f}"
    assert not pane_of("", contents(judged), judged)["has_exact"]


def test_the_table_of_presence_counts_each_question_once():
    table = presence_table(facts_of(mixed(80)))
    assert table["absent"][0] == 10 and table["present"][1] == 10
    assert sum(sum(row) for row in table.values()) == 80
    assert table["present"][2] == sum(not one.prediction.complete for one in mixed(80) if one.question.targets)


@pytest.mark.parametrize("kind", ["", "count"])
def test_questions_without_masks_have_no_presence_and_no_figures(kind):
    judged = [answered(question(at, None, kind="count"), text="7") for at in range(3)]
    pane = pane_of(kind, contents(judged), judged)
    assert pane["presence"] is None and pane["figures"] == [] and pane["findings"] == []
