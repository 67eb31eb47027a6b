"""Answers as JSON objects, and the log of lmms-eval."""

import json
from pathlib import Path

import pytest

from gemma_lisa.evaluation.prediction_files.answers import read_answers, read_mapping

MASK = {"size": [4, 6], "counts": "08`0"}
PATH = Path("answers.jsonl")


def read(record):
    (entry,) = read_answers([record], PATH, ["line 1"])
    return entry


def test_an_answer_has_masks_scores_and_words():
    entry = read(
        {"id": "a#0", "masks": [MASK], "scores": [0.5], "text": "It is [SEG].", "phrases": ["the dog"], "seconds": 2}
    )
    assert (entry.name, entry.masks, entry.scores, entry.where) == ("a#0", [MASK], [0.5], "answers.jsonl: a#0")
    assert entry.facts == {"text": "It is [SEG].", "phrases": ["the dog"], "seconds": 2}


def test_nothing_in_the_image_is_an_empty_list():
    assert read({"id": "a#0", "masks": []}).masks == []


def test_lines_of_the_questions_file_can_be_extended():
    line = {"index": 0, "id": "a#0", "question": "?", "source": "a", "image": None, "size": [4, 6], "asks": "masks"}
    assert read({**line, "masks": []}).name == "a#0"


def test_the_contract_of_lmms_eval_is_an_answer():
    (entry,) = read_mapping({"a#0": {"masks": [MASK], "boxes": [{"x_min": 0.1}], "scores": [0.5]}}, PATH)
    assert (entry.name, entry.masks, entry.scores) == ("a#0", [MASK], [0.5])


@pytest.mark.parametrize("key", ["filtered_resps", "resps"])
def test_the_log_of_lmms_eval_names_questions_by_number(key):
    response = json.dumps({"masks": [MASK], "boxes": [], "scores": [0.5]})
    entry = read({"doc_id": 4, "target": "", key: [[response]] if key == "resps" else [response], "doc_hash": "0"})
    assert (entry.name, entry.masks, entry.scores) == (4, [MASK], [0.5])


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (3, "line 1: an answer must be an object with the keys id and masks, got 3"),
        ({"masks": []}, "line 1: the id of its question is missing"),
        ({"id": "a"}, "a: the key masks is missing; write .. if there is nothing in the image"),
        ({"id": "a", "masks": None}, "a: masks must be a list, got None"),
        ({"id": "a", "masks": [MASK], "score": [1]}, "a: the key 'score' is unknown; correct or remove it"),
        (
            {"id": "a", "masks": [MASK], "scores": [float("nan")]},
            "a: a score must be a number between 0 and 1, got nan",
        ),
        ({"id": "a", "masks": [MASK], "scores": [1, 1]}, "a: 2 scores for 1 mask"),
        ({"id": "a", "masks": [MASK], "phrases": []}, "a: phrases must be one text per mask, got 0 values for 1 mask"),
        ({"id": "a", "masks": [MASK], "phrases": [1]}, "a: phrases must be one text per mask"),
        ({"id": "a", "masks": [], "text": 1}, "a: text must be of the type str, got 1"),
        ({"id": "a", "masks": [], "text": "\ud83d"}, "a: text contains characters that are not Unicode"),
        ({"id": "a", "masks": [], "complete": 1}, "a: complete must be of the type bool, got 1"),
        ({"id": "a", "masks": [], "tokens": True}, "a: tokens must be of the type int, got True"),
        ({"id": "a", "masks": [], "seconds": float("inf")}, "a: seconds must be a finite number from 0, got inf"),
        ({"id": "a", "masks": [], "seconds": 10**400}, "a: seconds must be a finite number from 0, got an integer of"),
        ({"id": "a", "masks": [], "seconds": -1}, "a: seconds must be a finite number from 0, got -1"),
        ({"id": "a", "masks": [], "tokens": -1}, "a: tokens must be a finite number from 0 to 2.63 - 1, got -1"),
        ({"id": "a", "masks": [], "tokens": 10**20}, "a: tokens must be a finite number from 0 to 2.63 - 1, got 1000"),
        ({"id": "a", "masks": [], "likelihood": 5}, "a: likelihood must be a finite number up to 0, got 5"),
        ({"id": "a", "masks": [], "boxes": [[0, 0, 1, 1]]}, "a: 1 box for 0 masks; give one box per mask"),
        ({"id": "a", "masks": [], "boxes": "x"}, "a: boxes must be a list, got 'x'"),
        ({"doc_id": 1, "resps": ['{"masks": [], "boxes": [{}]}']}, "1: 1 box for 0 masks"),
        ({"doc_id": 1, "resps": ['{"masks": [], "id": 2}']}, r"line 1 \(doc_id 1\): the answer has another id, 2"),
        ({"doc_id": 1, "resps": ['{"masks": [], "masks": [1]}']}, r"line 1 \(doc_id 1\): .*'masks' occurs twice"),
        ({"doc_id": 1}, r"line 1 \(doc_id 1\): filtered_resps must contain one answer, got None"),
        ({"doc_id": 1, "resps": ["a", "b"]}, r"line 1 \(doc_id 1\): filtered_resps must contain one answer"),
        ({"doc_id": 1, "resps": ["a dog"]}, r"line 1 \(doc_id 1\): the answer is not JSON \(.*\): 'a dog'; expected"),
        ({"doc_id": 1, "resps": ["[1]"]}, r"line 1 \(doc_id 1\): the answer must be an object with the key masks"),
    ],
)
def test_wrong_answers_are_named_on_one_line(record, problem):
    with pytest.raises(ValueError, match=f"^answers.jsonl: {problem}") as found:
        read(record)
    assert "\n" not in str(found.value)


def test_a_value_that_is_no_answer_is_named_by_its_key():
    with pytest.raises(ValueError, match="^answers.jsonl: a#0: the answer must be an object .*, got 3"):
        read_mapping({"a#0": 3}, PATH)


@pytest.mark.parametrize("key", ["id", "question_id"])
def test_an_answer_with_another_id_than_its_key_is_refused(key):
    with pytest.raises(ValueError, match=f"^answers.jsonl: a#0: the answer has another {key}, 'b#0'"):
        read_mapping({"a#0": {"masks": [], key: "b#0"}}, PATH)
    assert read_mapping({"a#0": {"masks": [], key: "a#0"}}, PATH)[0].name == "a#0"
