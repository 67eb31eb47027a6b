"""Ids, lists and scores of prediction files are checked."""

import pytest

from gemma_lisa.evaluation.prediction_files.entries import check_scores, id_of, list_of, place_of


@pytest.mark.parametrize(("record", "expected"), [({"id": "a#0"}, "a#0"), ({"question_id": 7, "id": "a"}, 7)])
def test_the_first_key_names_the_question(record, expected):
    assert id_of(record, "f.json") == expected


@pytest.mark.parametrize("value", [None, True, 1.5, "", ["a"]])
def test_an_id_is_a_text_or_a_whole_number(value):
    with pytest.raises(ValueError, match="^f.json: id must be an id or the number of a question, got "):
        id_of({"id": value}, "f.json")


def test_a_record_without_an_id_is_an_error():
    with pytest.raises(ValueError, match="^f.json: the id of its question is missing; add the key question_id"):
        id_of({"masks": []}, "f.json")


@pytest.mark.parametrize("record", [{}, {"masks": None}, {"masks": {}}])
def test_a_list_is_required(record):
    with pytest.raises(ValueError, match=r"^f.json: masks must be a list, got .*; write \[\] if there is nothing"):
        list_of(record, "masks", "f.json")


def test_scores_are_numbers_between_0_and_1():
    assert check_scores([], 3, "f") == [] and check_scores([1, 0.5], 2, "f") == [1.0, 0.5]
    for wrong in (float("nan"), float("inf"), -0.1, 1.5, "0.5", None, True):
        with pytest.raises(ValueError, match="^f: a score must be a number between 0 and 1, got "):
            check_scores([wrong], 1, "f")
    with pytest.raises(ValueError, match="^f: 1 score for 2 masks; give one score per mask"):
        check_scores([0.5], 2, "f")


def test_a_place_is_on_one_line():
    assert place_of("f.json", "a#0") == "f.json: a#0" and place_of("f.json", 3) == "f.json: 3"


@pytest.mark.parametrize("score", [10**400, -(10**400), float("nan")])
def test_scores_that_are_no_float_are_named(score):
    with pytest.raises(ValueError, match="^file: a score must be a number between 0 and 1, got"):
        check_scores([score], 1, "file")
