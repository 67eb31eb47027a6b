"""The contact sheet of test concepts."""

from dataclasses import replace

import pytest
from grey_pictures import colours
from reason_answers import questions, refused, right

from gemma_lisa.benchmarks.reason_sheet import choose, concepts_in, draw_concepts
from gemma_lisa.datasets_builder.synthetic.concepts import TEST, TRAIN
from gemma_lisa.drawing.sheet import GOOD, POOR


def test_concepts_are_found_as_whole_words():
    assert [concept.value for concept in concepts_in("the shape coloured like a lime")] == ["green"]
    assert concepts_in("the shape coloured like a limestone") == []
    assert all(concept in concepts_in(concept.phrase) for concept in TEST)
    assert not any(concepts_in(f"the thing coloured like {concept.phrase}") for concept in TRAIN)


def test_each_value_gets_questions_for_it_whatever_the_answers_are():
    answers = right()
    chosen = choose(answers, per_value=2)
    assert chosen == choose(refused(), per_value=2)
    assert len(chosen) == 12 and all(len(indices) <= 2 for indices in chosen.values())
    used = [index for indices in chosen.values() for index in indices]
    assert len(used) == len(set(used)) > 8
    for value, indices in chosen.items():
        for index in indices:
            assert answers[index].question.kind == "concept"
            assert value in {concept.value for concept in concepts_in(answers[index].question.text)}


def test_a_concept_occurs_once():
    answers = right()
    [first, *_] = [index for indices in choose(answers).values() for index in indices]
    twice = [answers[first], replace(answers[first], question=replace(answers[first].question, id="again"))]
    assert sum(map(len, choose(twice).values())) == len(concepts_in(answers[first].question.text))


def test_right_and_wrong_answers_have_frames_of_different_colours():
    good, poor = (colours(draw_concepts(answers, questions().image)) for answers in (right(), refused()))
    assert GOOD in good and POOR not in good
    assert POOR in poor and GOOD not in poor


def test_answers_without_a_test_concept_are_an_error():
    plain = [one for one in right() if one.question.kind == "plain"]
    with pytest.raises(ValueError, match="No tiles to draw"):
        draw_concepts(plain, questions().image)
