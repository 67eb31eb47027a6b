"""answers_gemma_lisa.py: the status of answers and masks, and answers that repeat themselves."""

import pytest
from picture_files import ROOT
from pyarrow import parquet

from gemma_lisa.answers_gemma_lisa import MIN_SCORE, STATUSES, answer_status, mask_status, repeats_itself
from gemma_lisa.datasets_builder.templates import LANGUAGES

REPETITIVE = [
    "No, I I I see none.",
    "No, I I see see see see none.",
    "No, I I I I I I see see are [SEG] white.",
    "I I I.",
    "See see see none.",
    "The THE the.",
    "It is [SEG] red red red circle.",
    "It is [SEG] red circle red circle red circle.",
    "It is [SEG]. It is the dog. It is the dog. It is the dog.",
    "I see none. I see none. I see none.",
    "They are [SEG] and and and",
]
CORRECT = [
    "",
    "3.",
    "No, I see none.",
    "No, I I see none.",
    "It is [SEG].",
    "They are [SEG], [SEG], [SEG] and [SEG].",
    "[SEG] [SEG] [SEG] [SEG]",
    "They are [SEG] blue triangle, [SEG] blue triangle, [SEG] blue triangle.",
    "They are [SEG] blue triangle [SEG] blue triangle [SEG] blue triangle",
    "They are [SEG], a cup, [SEG], a cup, [SEG], a cup.",
    "none none none none circle none none none none none none none none none none none",
    "red and blue and red and blue and red and blue",
    "a cup, a cup, a cup, a cup",
    "The plate [SEG] reads 7 7 7.",
    "I think that that is [SEG].",
    "The red shapes: [SEG] upper left star, [SEG] upper left ring, [SEG] upper left square.",
]


@pytest.mark.parametrize("text", REPETITIVE)
def test_repeated_words_are_detected(text):
    assert repeats_itself(text)


@pytest.mark.parametrize("text", CORRECT)
def test_lists_of_equal_items_are_not_repetitions(text):
    assert not repeats_itself(text)


@pytest.mark.parametrize("name", ["easy", "hard"])
def test_no_complete_answer_of_the_example_is_a_repetition(name):
    table = parquet.read_table(ROOT / "examples" / "shapes-tiny" / f"{name}.questions.parquet")
    answers = [row["answer"] for row in table.select(["answer", "complete"]).to_pylist() if row["complete"]]
    assert len(answers) > 1000 and not any(map(repeats_itself, answers))


@pytest.mark.parametrize(
    ("area", "score", "status"),
    [
        (0, 0.99, "nothing found"),
        (1, MIN_SCORE, "found"),
        (1, MIN_SCORE - 0.01, "low confidence"),
        (9, float("nan"), "low confidence"),
    ],
)
def test_status_of_a_mask_follows_from_its_area_and_score(area, score, status):
    assert mask_status(area, score) == status


@pytest.mark.parametrize(
    ("text", "complete", "masks", "status"),
    [
        ("It is.", True, ["found"], "found"),
        ("They are.", True, ["found", "nothing found"], "found"),
        ("They are.", True, ["found", "low confidence"], "low confidence"),
        ("They are.", True, ["nothing found", "nothing found"], "nothing found"),
        ("They are and", False, ["found"], "incomplete"),
        ("No, I", False, [], "incomplete"),
        ("", True, [], "incomplete"),
        ("", True, ["found"], "found"),  # the answer is "[SEG]"
        ("no.", True, [], "not there"),
        ("2.", True, [], "text only"),
        ("Northern lights.", True, [], "text only"),
        ("none none circle", True, [], "text only"),
        ("The red shape: none.", True, [], "not there"),
        ("The red shape: none", True, [], "not there"),
        ("The red shape: none of them is large.", True, [], "text only"),
        ("The red shape: none.", False, [], "incomplete"),
    ],
)
def test_status_of_an_answer_follows_from_its_text_and_masks(text, complete, masks, status):
    assert answer_status(text, complete, masks) == status
    assert status in STATUSES


@pytest.mark.parametrize("language", LANGUAGES)
def test_refusals_of_the_templates_mean_not_there(language):
    assert answer_status(LANGUAGES[language].refusal, True, []) == "not there"
