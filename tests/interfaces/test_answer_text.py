"""An answer as text: numbers for its masks, and a note if nothing was found or the answer is uncertain."""

import pytest
import torch

from gemma_lisa.interfaces.answer_text import answer_text, label_of, labels, masks_text, status_of


def answer(raw_text, areas=(), scores=(), complete=True, phrases=None):
    masks = torch.zeros(len(areas), 4, 5, dtype=torch.bool)
    for mask, area in zip(masks, areas, strict=True):
        mask.view(-1)[:area] = True
    return {
        "text": " ".join(raw_text.replace("[SEG]", "").split()).replace(" .", "."),
        "raw_text": raw_text,
        "phrases": phrases or ["red circle"] * len(areas),
        "masks": masks,
        "scores": torch.tensor(scores),
        "complete": complete,
    }


@pytest.mark.parametrize(
    ("found", "text", "masks"),
    [
        (answer("It is [SEG].", [8], [0.98]), "It is [1].", "1 mask: [1] red circle (score 0.98)"),
        (
            answer("[SEG] and [SEG].", [8, 3], [0.98, 0.7]),
            "[1] and [2].",
            "2 masks: [1] red circle (score 0.98), [2] red circle (score 0.70)",
        ),
        (
            answer("It is [SEG].", [8], [0.05]),
            "It is [1]. (low confidence)",
            "1 mask: [1] red circle (score 0.05, low confidence)",
        ),
        (
            answer("It is [SEG].", [0], [0.9]),
            "It is [1]. (nothing found: the mask is empty)",
            "no mask: [1] red circle (empty mask)",
        ),
        (
            answer("[SEG], [SEG].", [0, 0], [0.9, 0.9]),
            "[1], [2]. (nothing found: all masks are empty)",
            "no mask: [1] red circle (empty mask), [2] red circle (empty mask)",
        ),
        (
            answer("[SEG], [SEG].", [0, 8], [0.9, 0.9]),
            "[1], [2].",
            "1 mask: [1] red circle (empty mask), [2] red circle (score 0.90)",
        ),
        (answer("No, I see none."), "No, I see none.", "no mask"),
        (answer("There are 2."), "There are 2.", "no mask"),
        (
            answer("It is", complete=False),
            "It is (incomplete: cut off; raise --max_new_tokens)",
            "no mask",
        ),
        (
            answer("No, I I I see see", complete=False),
            "No, I I I see see (incomplete: the answer repeats itself)",
            "no mask",
        ),
        (
            answer("No, " + "I " * 60, complete=False),
            f"No, {'I ' * 27}I… (incomplete: the answer repeats itself)",
            "no mask",
        ),
        (answer(""), "(incomplete: the answer is empty)", "no mask"),
        (answer("", complete=False), "(incomplete: cut off; raise --max_new_tokens)", "no mask"),
    ],
)
def test_an_answer_is_written_with_its_masks_and_a_note_if_it_is_not_reliable(found, text, masks):
    assert answer_text(found) == text
    assert masks_text("the red circle", found) == masks


def test_masks_can_be_numbered_from_another_number():
    found = answer("[SEG] and [SEG].", [8, 3], [0.98, 0.7])
    assert answer_text(found, first=3) == "[3] and [4]."
    assert masks_text("q", found, first=3) == "2 masks: [3] red circle (score 0.98), [4] red circle (score 0.70)"


def test_a_mask_without_a_phrase_is_labelled_with_the_question():
    found = answer("It is [SEG] a ring and [SEG].", [8, 3], [0.875, 0.5], phrases=["a ring", ""])
    assert labels("what is round", found) == ["a ring (score 0.88)", "what is round (score 0.50)"]


def test_the_label_of_a_mask_shows_low_confidence_and_empty_masks():
    assert label_of("cup", 0.91, 10) == "cup (score 0.91)"
    assert label_of("cup", 0.3, 10) == "cup (score 0.30, low confidence)"
    assert label_of("cup", 0.9, 0) == "cup (empty mask)"


def test_the_status_is_computed_from_areas_and_scores():
    assert status_of(answer("It is [SEG].", [8], [0.98])) == "found"
    assert status_of(answer("It is [SEG].", [0], [0.98])) == "nothing found"
    assert status_of(answer("It is [SEG].", [8], [0.1])) == "low confidence"
