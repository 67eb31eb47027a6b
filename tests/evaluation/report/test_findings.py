"""Each baseline is named for what it is."""

import pytest
from judged_boxes import answered, baseline, box, mixed, question

from gemma_lisa.evaluation.error_classes import summarize_errors
from gemma_lisa.evaluation.report.facts import facts_of, mask_scores
from gemma_lisa.evaluation.report.findings import find


def sentences(judged) -> list[str]:
    facts = facts_of(judged)
    return find(facts, summarize_errors(judged), *mask_scores(facts))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("truth", "Every prediction equals its target"),
        ("always", "Every question gets a mask, also the 10 whose target is not in the image"),
        ("never", "It refuses every question"),
        ("whole", "Every predicted mask covers the whole image"),
        ("empty", "All predicted masks are empty"),
        ("random", "The masks do not depend on the question"),
    ],
)
def test_a_baseline_is_named(name, words):
    found = sentences(baseline(name, 40))
    assert any(words in one for one in found), found


def test_a_model_is_not_taken_for_a_baseline():
    text = " ".join(sentences(mixed(80)))
    for words in ("Every", "It refuses every", "do not depend", "empty"):
        assert words not in text
    assert "It refuses 10 of 60 questions whose target is in the image." in text
    assert "It gives a mask for 10 of 20 questions whose target is not in the image." in text
    assert "The most is lost to errors of the class" in text


def test_truth_has_one_sentence_and_never_does_not_speak_of_its_masks():
    assert len(sentences(baseline("truth", 40))) == len(sentences(baseline("never", 40))) == 1


def test_high_scores_of_bad_masks_are_reported():
    judged = [answered(question(at, [box(0, 0)]), [box(0, 0, 6)], scores=[0.95]) for at in range(12)]
    assert "Its own scores are too high: 0.95 on average, but the real IoU of its masks is 0.50." in sentences(judged)
    judged = [answered(question(at, [box(0, 0)]), [box(0, 0)], scores=[0.4]) for at in range(12)]
    assert any("Its own scores are too low" in one for one in sentences(judged))


def test_questions_without_masks_and_without_targets_have_no_wrong_sentences():
    assert sentences([answered(question(0, None), text="7")]) == []
    assert sentences([answered(question(at)) for at in range(3)]) == [
        "Every prediction equals its target, and every absent target is refused, as the ground truth would."
    ]
