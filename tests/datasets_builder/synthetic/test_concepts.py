"""Table of concepts: enough of each color and shape, no plain word in them, and no relatives on both sides."""

import re
from collections import Counter
from itertools import product

import pytest

from gemma_lisa.datasets_builder.synthetic.concepts import TEST, TRAIN, Concept

VALUES = {
    "color": ("red", "green", "blue", "yellow", "purple", "white"),
    "shape": ("circle", "square", "triangle", "star", "ring", "cross"),
}
OTHER_COLORS = {"orange", "black", "brown", "pink", "gray", "grey", "gold", "golden", "silver", "beige", "cyan"}
# Words that do not make two concepts relatives
COMMON = {"a", "an", "the", "of", "in", "on", "that", "with", "for", "to", "from", "s", "one", "thing", "at", "you"}


def words_of(phrase):
    return set(re.findall(r"[^\W_]+", phrase.lower()))


def test_each_color_and_shape_has_enough_concepts_on_both_sides():
    train, test = (Counter((concept.attribute, concept.value) for concept in side) for side in (TRAIN, TEST))
    assert train.keys() == test.keys() == {(name, value) for name, values in VALUES.items() for value in values}
    for (attribute, value), count in test.items():
        assert count >= 5, value
        assert train[attribute, value] + count >= {"color": 20, "shape": 12}[attribute], value
    assert len(TRAIN) + len(TEST) >= 230
    assert len(TEST) / (len(TRAIN) + len(TEST)) == pytest.approx(0.3, abs=0.1)


def test_each_phrase_occurs_once():
    phrases = Counter(concept.phrase.lower() for concept in (*TRAIN, *TEST))
    assert phrases.most_common(1)[0][1] == 1


@pytest.mark.parametrize("concept", [*TRAIN, *TEST], ids=lambda concept: concept.phrase)
def test_concept_has_no_name_of_a_color_or_shape_in_it(concept):
    plain = {value for values in VALUES.values() for value in values}
    words = words_of(concept.phrase)
    assert not words & (plain | {f"{value}s" for value in plain} | {"crosses"} | OTHER_COLORS)
    compounds = [value for value in plain if len(value) > 3 and value != "ring"]  # "red" and "ring" are in other words
    assert not [word for word in words if any(word.startswith(value) or word.endswith(value) for value in compounds)]


def test_relatives_are_on_one_side():
    """Two concepts of one color or shape are relatives if they share a word that says what the thing is."""
    shared = {
        (one.phrase, other.phrase)
        for one, other in product(TRAIN, TEST)
        if one.value == other.value and (words_of(one.phrase) & words_of(other.phrase)) - COMMON
    }
    assert shared - COLOR_WORDS_OF_WHOLE_QUESTIONS == set()


# "the one in the colour of ..." is the form of whole questions about colors
COLOR_WORDS_OF_WHOLE_QUESTIONS = {
    (one.phrase, other.phrase) for one, other in product(TRAIN, TEST) if one.whole and other.whole and "colour" in
    words_of(one.phrase) & words_of(other.phrase)
}  # fmt: skip


def test_phrases_fit_into_wordings():
    for concept in (*TRAIN, *TEST):
        assert concept.phrase == concept.phrase.strip() and concept.phrase.isascii()
        assert not concept.phrase.endswith((".", "?")) and "{" not in concept.phrase
        if concept.whole:
            assert concept.phrase.startswith(("the ", "what "))


def test_a_mark_in_the_table_makes_a_whole_question():
    assert Concept("the thing with three corners", "shape", "triangle", whole=True) in TEST
    assert Concept("blood", "color", "red") in TEST and Concept("a ripe tomato", "color", "red") in TRAIN
