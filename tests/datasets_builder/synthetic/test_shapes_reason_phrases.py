"""Phrases of level "reason": wordings of training are not those of validation and test, and verbs have their number."""

import re

import numpy as np
import pytest

from gemma_lisa.datasets_builder.synthetic.concepts import TEST, TRAIN
from gemma_lisa.datasets_builder.synthetic.shapes_reason_phrases import (
    HELD_OUT,
    NEGATED,
    SAY,
    TRAINED,
    UNTRAINED_NEGATED,
    UNTRAINED_WORDINGS,
    WORDINGS,
    draw_hidden,
    phrase,
    without,
)

TOMATO = {"color": "red", "shape": "circle"}


def drawn(say):
    """Return the distinct phrases that a function draws with 2,000 seeds."""
    return {say(np.random.default_rng(seed)) for seed in range(2000)}


def words_of(wording):
    return set(re.findall("[a-z]+", wording))


def said(kind, attributes, words=TRAINED, plural=False):
    return drawn(lambda rng: SAY[kind](attributes, words, rng, plural))


def test_each_split_has_its_concepts_and_half_of_the_wordings_of_test_are_untrained():
    assert all(TRAINED.concepts[one.attribute, one.value].count(one) == 1 for one in TRAIN)
    assert all(HELD_OUT.concepts[one.attribute, one.value].count(one) == 1 for one in TEST)
    assert sum(map(len, TRAINED.concepts.values())) == len(TRAIN)
    assert sum(map(len, HELD_OUT.concepts.values())) == len(TEST)
    rng = np.random.default_rng(0)
    assert not any(TRAINED.is_untrained(rng) for _ in range(100))
    assert sum(HELD_OUT.is_untrained(rng) for _ in range(1000)) == pytest.approx(500, abs=60)


def test_untrained_wordings_have_other_words_than_the_trained_ones():
    trained = {word for words in [*WORDINGS.values(), NEGATED.values()] for one in words for word in words_of(one)}
    for wordings in [*UNTRAINED_WORDINGS.values(), UNTRAINED_NEGATED.values()]:
        assert all(words_of(one) - trained for one in wordings)
    assert all(len(wordings) >= 3 for wordings in UNTRAINED_WORDINGS.values())


def test_plain_phrases():
    assert said("plain", TOMATO) == {"the red circle"}
    assert said("plain", {"color": "red"}, plural=True) == {"red shapes"}


def test_concepts_say_the_color_the_shape_or_both():
    pairs = said("concept", TOMATO)
    assert {"the circle coloured like a ripe tomato", "the red one shaped like a coin"} <= pairs
    assert any(re.fullmatch(r"the (thing|one|object) coloured like .+ and shaped like .+", pair) for pair in pairs)
    assert "the thing with no corners and no hole" in said("concept", {"shape": "circle"})
    assert "the thing with no corners and no hole" not in said("concept", TOMATO)


def test_plural_phrases_have_plural_nouns_and_verbs_and_no_whole_question():
    singular, plural = (said("concept", {"shape": "circle"}, plural=number) for number in (False, True))
    assert "the thing that looks like a coin" in singular and "things that look like a coin" in plural
    assert all(re.match(r"(things|objects) ", text) for text in plural)
    assert "the thing with no corners and no hole" not in plural


def test_negations_say_the_excluded_value_plainly_or_by_a_concept():
    arguments = ("color", "red", False, TRAINED)
    assert drawn(lambda rng: without(*arguments, rng, False)) == {"that is not red"}
    assert drawn(lambda rng: without("shape", "cross", False, TRAINED, rng, True)) == {"that are not crosses"}
    assert drawn(lambda rng: without("shape", "cross", False, TRAINED, rng, False)) == {"that is not a cross"}
    held_out = drawn(lambda rng: without("color", "red", True, HELD_OUT, rng, True))
    assert {"that are not coloured like blood", "that do not match blood in colour"} <= held_out


def test_hidden_attributes_are_one_or_both():
    assert drawn(lambda rng: draw_hidden(rng, ["color", "shape"])) == {("color",), ("shape",), ("color", "shape")}
    assert drawn(lambda rng: draw_hidden(rng, ["color"])) == {("color",)}


def test_phrase_names_the_attributes_that_are_not_hidden():
    texts = drawn(lambda rng: phrase(TOMATO, ("shape",), HELD_OUT, rng))
    assert all(text.startswith("the red ") and "circle" not in text for text in texts)


def test_synonyms():
    assert {"the crimson disc", "the disc in scarlet", "the crimson round thing"} <= said("paraphrase", TOMATO)
    assert {"the crimson one", "the shape in scarlet"} <= said("paraphrase", {"color": "red"})
    assert "the disc" in said("paraphrase", {"shape": "circle"})
    assert not any(" in golden" in text for text in said("paraphrase", {"color": "yellow"}))


def test_japanese():
    assert said("ja_plain", TOMATO) == {"赤い円", "赤い丸", "赤色の円", "赤色の丸"}
    assert said("ja_plain", {"color": "red"}) >= {"赤い形", "赤色の図形"}
    assert {"トマトの色の円", "コインの形の赤いもの"} <= said("ja_concept", TOMATO)
    texts = said("ja_concept", {"shape": "circle"})
    assert "コインの形のもの" in texts and not any("形の形" in text for text in texts)
