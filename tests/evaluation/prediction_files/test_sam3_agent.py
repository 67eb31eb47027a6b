"""Outputs of SAM 3's agent."""

from pathlib import Path

import pytest
from prediction_writers import agent_output, small_benchmark

from gemma_lisa.evaluation.prediction_files.sam3_agent import read_sam3_agent

PATH = Path("1_agent_pred.json")


def output(**keys):
    first = small_benchmark()[0]
    return {**agent_output(first, first.targets), **keys}


def test_a_question_is_named_by_image_and_text_and_masks_have_the_size_of_the_image():
    entry = read_sam3_agent(output(), PATH)
    assert entry.asked == ("images/1.jpg", "the left bar") and entry.name is None and entry.scores == [0.5]
    assert entry.masks == small_benchmark()[0].targets


def test_an_id_comes_before_image_and_text():
    entry = read_sam3_agent(output(id="small/test/1#0"), PATH)
    assert (entry.name, entry.asked) == ("small/test/1#0", None)


def test_no_mask_is_an_answer():
    assert read_sam3_agent(output(pred_masks=[], pred_boxes=[], pred_scores=[]), PATH).masks == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], r": expected an object with the key pred_masks, got \[\]"),
        ({"pred_boxes": []}, ": expected an object with the key pred_masks"),
        (output(pred_masks=None), ": 'the left bar': pred_masks must be a list, got None"),
        (output(pred_scores=[]), None),
        (output(pred_scores=[0.5, 0.5]), ": 'the left bar': 2 scores for 1 mask"),
        (output(pred_scores=[float("nan")]), ": 'the left bar': a score must be a number between 0 and 1, got nan"),
        (output(pred_boxes=[]), ": 'the left bar': 0 boxes for 1 mask"),
        (output(orig_img_h="4"), ": 'the left bar': orig_img_h and orig_img_w must be whole numbers of pixels"),
        (output(text_prompt=None), ": text_prompt and image_path, or the id of the question, are missing"),
    ],
)
def test_wrong_outputs_are_named(content, problem):
    if problem is None:  # scores are optional
        assert read_sam3_agent(content, PATH).scores == []
        return
    with pytest.raises(ValueError, match=f"^1_agent_pred.json{problem}"):
        read_sam3_agent(content, PATH)
