"""Tables of fixed answers: each score, the level of chance, and the classes of errors."""

import json

import pytest
from reason_answers import answers, questions, refused, right

from gemma_lisa.benchmarks.reason_tables import ALL, TITLES, cell, chance, lines_of, masks_of_scene, of_kind, summary
from gemma_lisa.datasets_builder.rows import decode_mask
from gemma_lisa.datasets_builder.synthetic.shapes_reason import EVAL


def summed(**runs):
    plain = {name: answer.partition(":")[0] for name, answer in answers().items()}
    return summary(runs, ["real"], plain)


@pytest.fixture(scope="module")
def found():
    return summed(real=[right()], scratch=[refused()])


def test_every_kind_of_question_has_a_row():
    assert set(TITLES) == set(EVAL)


def test_right_answers_have_the_best_scores_and_refusals_only_those_of_absent_objects(found):
    for kind, scores in found["scores"].items():
        assert scores["real"]["values"] == [1.0], kind
        assert scores["scratch"]["values"] == [1.0 if kind.startswith("absent") else 0.0], kind
        assert scores["real"]["questions"] == len(of_kind(right(), kind)) > 0
    assert sum(scores["real"]["questions"] for kind, scores in found["scores"].items() if kind != ALL) == sum(
        question.targets is not None for question in questions()
    )


def test_chance_is_the_iou_of_an_object_drawn_at_random(found):
    for kind in ("plain", "concept", "ja_plain"):
        assert 0.15 < found["chance"][kind] < 0.4, kind
    assert (found["chance"]["absent"], found["chance"][ALL]) == (0.0, 1.0)
    [one] = [one for one in right() if one.question.targets and len(one.question.targets) == 1][:1]
    assert chance([one]) == pytest.approx(1 / len(masks_of_scene(one.question.source, 128)))
    assert chance(of_kind(right(), "absent")) is None


def test_a_scene_that_is_drawn_again_has_the_targets_of_its_row():
    asked = [question for question in questions() if question.targets]
    for question in asked:
        masks = [mask.tobytes() for mask in masks_of_scene(question.source, 128)]
        assert all(decode_mask(rle, question.id).astype(bool).tobytes() in masks for rle in question.targets)


def test_answers_that_name_what_was_asked_for_are_counted_for_trained_bases(found):
    assert all(shares == {"real": 1.0} for shares in found["named"].values())
    assert summed(real=[refused()])["named"]["concept"] == {"real": 0.0}


def test_classes_of_errors_are_counted_over_all_seeds():
    counts = summed(real=[right(), refused()])["errors"]["plain"]["real"]
    number = len(of_kind(right(), "plain"))
    assert counts == {"right": number, "presence": number} | dict.fromkeys(
        ("cut off", "selection", "count", "boundary"), 0
    )


def test_the_tables_are_markdown_with_one_column_per_base(found):
    lines = lines_of(json.loads(json.dumps(found)))
    assert lines[0] == "| question | score | number | real | scratch | chance |"
    [concept] = [line for line in lines if line.startswith("| test concept")]
    cells = [part.strip() for part in concept.strip("|").split("|")]
    assert cells[3:5] == ["1.00 (1.00 to 1.00)", "0.00 (0.00 to 0.00)"]
    assert "Classes of errors of real, number of answers:" in lines
    assert all(line.count("|") in (0, lines[0].count("|"), 4 - 1, 8) for line in lines)


def test_a_cell_shows_an_interval_or_the_spread_over_seeds():
    assert cell({"values": [0.5], "interval": [0.25, 0.75]}) == "0.50 (0.25 to 0.75)"
    assert cell({"values": [0.5, 0.7], "interval": None}) == "0.60 ± 0.14"
    assert cell({"values": [None], "interval": None}) == "–"
