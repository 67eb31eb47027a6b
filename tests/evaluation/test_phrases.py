"""Phrases beside masks: what rows call their things, and which phrases are true."""

import numpy as np
import pytest
from judged_drawings import BOTTOM_RIGHT, NOTHING, TOP_LEFT, TOP_RIGHT, judged, rle

from gemma_lisa.answers_gemma_lisa import phrases_of
from gemma_lisa.datasets_builder.rows import new_target
from gemma_lisa.datasets_builder.synthetic.shapes import LEVELS, row_of_scene
from gemma_lisa.evaluation.judging import judge
from gemma_lisa.evaluation.metrics import summarize
from gemma_lisa.evaluation.phrases import names_of
from gemma_lisa.evaluation.records import Prediction, Question

STAR = ["the star that is not blue", "small striped red star"]


def drawn(phrase: str, mask: str = TOP_LEFT, names=STAR, text=None) -> tuple[int, int]:
    """Return (right, judged) of a phrase beside a mask, for a star at the top left of a drawn scene."""
    phrases = None if text else [phrase]
    one = judged(
        [TOP_LEFT], [mask], dataset="shapes/hard", names=[names, ["the absent cross"]], phrases=phrases, text=text
    )
    return one.phrases_right, one.phrases_judged


@pytest.mark.parametrize(
    ("phrase", "found"),
    [
        ("small striped red star", (1, 1)),
        ("star in red", (1, 1)),
        ("red shape", (1, 1)),
        ("the stars", (1, 1)),
        ("star in blue", (0, 1)),
        ("large striped red star", (0, 1)),
        ("red blue star", (0, 1)),
        # The center of TOP_LEFT is (1, 1): the border of the first and second quarter of 4 x 4 pixels
        ("upper left", (1, 1)),
        ("left upper", (1, 1)),
        ("upper right", (0, 1)),
        ("bottom left", (0, 1)),
        ("upper", (1, 1)),
        ("red dog", (0, 0)),
        ("dog", (0, 0)),
        ("shape", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_phrases_of_drawn_scenes(phrase, found):
    assert drawn(phrase) == found


def test_upper_right_for_something_at_the_upper_left_is_wrong():
    # The centroid of the mask is (1.5, 0.5) of 4 x 4 pixels: upper row, leftmost column
    left = "1... 1... .... ...."
    assert drawn("upper right", left) == (0, 1) and drawn("top leftmost", left) == (1, 1)


def test_a_phrase_that_cannot_be_judged_is_not_right():
    assert drawn("striped star", names=["the red star"]) == (0, 0)  # its texture is unknown
    assert drawn("striped cross", names=["the red star"]) == (0, 1)  # but it is no cross
    assert drawn("red star", BOTTOM_RIGHT) == (0, 0)  # the mask covers no annotated thing
    assert drawn("upper left", NOTHING) == (0, 0)
    near = "1111 1111 1111 11.."  # centroid of the rows: 1.86 of 4, in the second quarter and 0.14 above the third
    assert drawn("upper", near)[1] == 1 and drawn("lower", near) == (0, 1)
    assert drawn("lower", "1111 1111 1111 1111") == (1, 1)  # centroid exactly on the border
    assert drawn("lower", "1111 1111 1111 111.") == (0, 0)  # 0.06 quarters above it


def test_phrases_are_read_from_the_text_of_a_model():
    assert drawn("", text="It is [SEG] star in blue.") == (0, 1)
    assert drawn("", text="It is [SEG].") == (0, 0)


def classes(phrase, dataset="coco_instances", mask=TOP_LEFT):
    names = [["the dog"], ["the cup"], ["the cat"]]
    one = judged([TOP_LEFT], [mask], others=[TOP_RIGHT], dataset=dataset, names=names, phrases=[phrase])
    return one.phrases_right, one.phrases_judged


def test_class_names_are_compared_with_the_covered_thing():
    assert classes("Dogs") == classes("a dog") == (1, 1)
    assert classes("cup") == (0, 1) and classes("cup", mask=TOP_RIGHT) == (1, 1)
    assert classes("cat") == (0, 1)  # the row asks for it as absent
    assert classes("puppy") == (0, 0)  # perhaps true
    assert classes("cup", dataset="refcoco") == (0, 0)  # its texts are no class names


def test_names_of_a_row():
    a, b = rle(TOP_LEFT), rle(TOP_RIGHT)
    targets = [
        new_target(["the red star"], [a], answer="It is {seg} upper left."),
        new_target(["Which ones shine?"], [a, b], is_sentence=True, answer="They are {seg} star, {seg} ring."),
        new_target(["the cross"], []),
    ]
    star, ring, absent = ["the red star", "upper left", "star"], ["ring"], ["the cross"]
    assert names_of(targets, 0) == [star, star, ring, absent]
    found = names_of(targets, 1)
    assert [sorted(names) for names in found] == [sorted(star), ring, sorted(star), absent]
    assert names_of(targets, 2) == [star, star, ring, absent]


def test_other_numbers_of_names_or_phrases_are_refused():
    with pytest.raises(ValueError, match=r"row#0: 1 lists of names"):
        judged([TOP_LEFT], [TOP_LEFT], dataset="shapes", names=[["star"]], phrases=["star"])
    with pytest.raises(ValueError, match="2 phrases for 1 masks"):
        judged([TOP_LEFT], [TOP_LEFT], dataset="shapes", names=[["star"], []], phrases=["star", "ring"])


@pytest.mark.parametrize("level", ["easy", "hard", "drawings"])
def test_the_right_answers_of_shapes_are_true_and_wrong_ones_are_not(level):
    answers, wrong = [], []
    for number in range(30):
        rng, module = np.random.default_rng((5, number)), LEVELS[level][0]
        row = row_of_scene(module.draw_scene(rng, 128), rng, False, f"shapes-{level}/test/{number}", module)
        for index, target in enumerate(row["targets"]):
            if not target["masks"]:
                continue
            others = [mask for at, other in enumerate(row["targets"]) if at != index for mask in other["masks"]]
            size, names = tuple(target["masks"][0]["size"]), names_of(row["targets"], index)
            question = Question(
                f"{number}#{index}",
                "d",
                row["source"],
                None,
                "",
                "",
                size,
                target["masks"],
                target["ignore"],
                others,
                names,
            )
            phrases = phrases_of(target["answer"].split("{seg}"))
            answers.append(judge(question, Prediction(question.id, target["masks"], [], phrases=phrases)))
            changed = [_opposite(phrase) for phrase in phrases]
            wrong.append(judge(question, Prediction(question.id, target["masks"], [], phrases=changed)))
    scores = summarize(answers)
    assert scores["phrase_acc"] == 1.0 and scores["phrases_judged"] > 80 > scores["phrases_not_judged"]
    assert summarize(wrong)["phrase_acc"] == 0.0


def _opposite(phrase: str) -> str:
    """Return a phrase with another color, row or column."""
    pairs = {"red": "blue", "blue": "red", "green": "red", "yellow": "red", "purple": "red", "white": "red"}
    pairs |= {"top": "bottom", "upper": "bottom", "lower": "top", "bottom": "top"}
    return " ".join(pairs.get(word, word) for word in phrase.split())


def test_words_about_another_thing_are_not_judged():
    assert drawn("star left of the blue ring") == (0, 0)
    assert drawn("ring left of the blue star") == (0, 1)
