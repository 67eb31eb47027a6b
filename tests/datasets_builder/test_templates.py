"""Phrasings: one `{seg}` per mask in each template, "No" only in refusals, and the same phrasings for the same seed."""

import numpy as np
import pytest
from datasets import Dataset

from gemma_lisa.datasets_builder.rows import ROW_FEATURES, SEG_SLOT
from gemma_lisa.datasets_builder.synthetic.shapes import row_of_scene
from gemma_lisa.datasets_builder.synthetic.shapes_easy import draw_scene
from gemma_lisa.datasets_builder.templates import (
    LANGUAGES,
    OWN_ANSWER_SHARE,
    Conversation,
    Phrasing,
    ask,
    ask_plainly,
    place_questions,
)

A_MASK = {"size": [2, 2], "counts": "13"}


def target_of(num_masks, texts=("the cup",), is_sentence=False, answer=None, explanation=None):
    return {
        "texts": list(texts),
        "kind": None,
        "is_sentence": is_sentence,
        "masks": [A_MASK] * num_masks,
        "answer": answer,
        "ignore": None,
        "explanation": explanation,
    }


def row_of(*targets, conversation=()):
    return {"image": None, "source": "row", "targets": list(targets), "conversation": list(conversation)}


def said_of(target, count=100):
    """Return the (question, answer) pairs of `count` seeds."""
    conversations = [ask(row_of(target), np.random.default_rng(seed), 4) for seed in range(count)]
    assert all(
        len(conversation) == 1 and len(conversation[0].turns) == 1 and conversation[0].targets == (target,)
        for conversation in conversations
    )
    return [conversation[0].turns[0] for conversation in conversations]


@pytest.mark.parametrize("is_sentence", [False, True])
@pytest.mark.parametrize("num_masks", [0, 1, 2, 5])
def test_answers_have_one_slot_per_mask_in_each_template(num_masks, is_sentence):
    own = f"Look, {', '.join([SEG_SLOT] * num_masks)}." if num_masks else None
    target = target_of(num_masks, ("the cup", "a cup"), is_sentence, own, "It holds tea.")
    pairs = [*said_of(target), ask_plainly(row_of(target))[0].turns[0]]
    assert all(answer.count(SEG_SLOT) == num_masks and SEG_SLOT not in question for question, answer in pairs)
    assert not any("{text}" in part or "{question}" in part for pair in pairs for part in pair)


def test_all_templates_are_used():
    phrases = [*said_of(target_of(0)), *said_of(target_of(1)), *said_of(target_of(2))]
    sentences = said_of(target_of(0, ["Which one holds tea?"], is_sentence=True))
    questions, answers = ({pair[at] for pair in phrases + sentences} for at in (0, 1))
    assert questions == {
        *(template.format(text="the cup") for template in LANGUAGES["en"].phrase_questions),
        *(template.format(text="Which one holds tea?") for template in LANGUAGES["en"].sentence_questions),
    }
    assert answers == {"No, I see none.", "It is {seg}.", "They are {seg} and {seg}."}


def test_refusals_start_with_no_and_other_answers_do_not():
    for number in range(50):  # also true for the answers of the shapes data set
        generator = np.random.default_rng(number)
        row = row_of_scene(draw_scene(generator, 32), generator, True, "row")
        for conversation in [*ask(row, generator, 4), *ask_plainly(row)]:
            if conversation.targets:
                [(_, answer)] = conversation.turns
                assert answer.startswith("No") == (not conversation.targets[0]["masks"]), answer


def test_slots_of_several_masks_are_joined_with_commas_and_and():
    pairs = ask_plainly(row_of(target_of(1), target_of(2), target_of(3)))
    assert [conversation.turns[0][1] for conversation in pairs] == [
        "It is {seg}.",
        "They are {seg} and {seg}.",
        "They are {seg}, {seg} and {seg}.",
    ]


def test_same_seed_gives_the_same_phrasings_and_another_seed_gives_others():
    row = row_of(*(target_of(at % 3, ("the cup", "a cup", "cups")) for at in range(6)))
    first, again, other = (ask(row, np.random.default_rng(seed), 4) for seed in (5, 5, 6))
    assert first == again != other


def test_at_most_max_questions_targets_are_asked_in_order_and_each_is_drawn_sometimes():
    row = row_of(*(target_of(1, [f"thing {at}"]) for at in range(6)))
    asked = set()
    for seed in range(40):
        conversations = ask(row, np.random.default_rng(seed), 4)
        chosen = [row["targets"].index(conversation.targets[0]) for conversation in conversations]
        assert chosen == sorted(set(chosen))
        assert len(chosen) == 4
        asked |= set(chosen)
    assert asked == set(range(6))
    assert len(ask(row, np.random.default_rng(0), 9)) == 6


def test_own_conversation_of_a_row_follows_the_targets_and_does_not_count_for_max_questions():
    turns = [{"question": "How many?", "answer": "Two."}, {"question": "Sure?", "answer": "No doubt."}]
    row = row_of(target_of(1), target_of(0), conversation=turns)
    own = Conversation((("How many?", "Two."), ("Sure?", "No doubt.")))
    conversations = ask(row, np.random.default_rng(0), 1)
    assert len(conversations) == 2
    assert conversations[-1] == ask_plainly(row)[-1] == own
    assert len(ask_plainly(row)) == 4


def test_evaluation_asks_each_turn_of_a_conversation_after_the_right_answers_before_it():
    turns = [{"question": f"{number}?", "answer": f"{number}."} for number in range(3)]
    row = row_of(target_of(1), conversation=turns)
    asked = [conversation.turns for conversation in ask_plainly(row)[1:]]
    said = tuple((f"{number}?", f"{number}.") for number in range(3))
    assert asked == [said[:1], said[:2], said]
    rows = Dataset.from_list([row, row_of(target_of(0))], features=ROW_FEATURES)
    assert place_questions(rows, True).tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]
    assert place_questions(rows, False).tolist() == [[0, 0], [1, 0]]


def test_training_asks_all_texts_of_a_target_and_evaluation_asks_the_first():
    target = target_of(1, ("the cup", "a cup"))
    questions = {question for question, _ in said_of(target)}
    assert {"the cup", "a cup"} <= questions
    assert ask_plainly(row_of(target))[0].turns[0][0] == "the cup"


def test_own_answer_of_a_data_set_is_used_according_to_its_share():
    own = "Surely {seg}, the blue one."
    count = sum(answer == own for _, answer in said_of(target_of(1, answer=own), 200))
    assert count / 200 == pytest.approx(OWN_ANSWER_SHARE, abs=0.12)
    assert ask_plainly(row_of(target_of(1, answer=own)))[0].turns[0][1] == "It is {seg}."


def test_answers_have_an_explanation_if_and_only_if_the_question_asks_for_it():
    pairs = said_of(target_of(1, explanation="It holds tea."), 200)
    explained = [answer.endswith(" It holds tea.") for _, answer in pairs]
    assert explained == [question.endswith(" Please explain why.") for question, _ in pairs]
    assert 0.35 < sum(explained) / 200 < 0.65
    assert not any("explain" in question for question, _ in said_of(target_of(1)))


def test_sentence_is_asked_unchanged_and_its_refusal_does_not_repeat_it():
    sentence = "Which one holds tea?"
    for question, answer in said_of(target_of(0, [sentence], is_sentence=True)):
        assert question.startswith(sentence)
        assert answer == LANGUAGES["en"].refusal
    plain = ask_plainly(row_of(target_of(0, [sentence], is_sentence=True)))[0]
    assert plain.turns == ((sentence, LANGUAGES["en"].refusal),)


# --- languages -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", LANGUAGES)
@pytest.mark.parametrize("num_masks", [0, 1, 2, 5])
def test_each_language_has_one_slot_per_mask_and_a_distinct_first_word_for_refusals(name, num_masks):
    language, phrasing = LANGUAGES[name], Phrasing({name: 1.0})
    for is_sentence in (False, True):
        row = row_of(target_of(num_masks, ["the cup"], is_sentence, explanation="It holds tea."))
        for seed in range(30):
            [(question, answer)] = ask(row, np.random.default_rng(seed), 4, phrasing)[0].turns
            assert answer.count(SEG_SLOT) == num_masks and "cup" in question and SEG_SLOT not in question
            assert not any(braces in question + answer for braces in ("{text}", "{question}"))
    answers = (language.one_answer, language.several_answer)
    assert not any(answer.startswith(language.refusal[:2]) for answer in answers)


def test_languages_are_drawn_by_their_shares_and_the_same_seed_gives_the_same_language():
    row, phrasing = row_of(target_of(1)), Phrasing({"en": 3.0, "ja": 1.0})
    said = [ask(row, np.random.default_rng(seed), 4, phrasing)[0].turns[0][1] for seed in range(400)]
    assert said.count("それは {seg} です。") == pytest.approx(100, abs=30)
    assert said.count("It is {seg}.") + said.count("それは {seg} です。") == 400
    assert said == [ask(row, np.random.default_rng(seed), 4, phrasing)[0].turns[0][1] for seed in range(400)]


def test_phrases_are_translated_if_possible_and_lose_the_article_otherwise():
    phrasing = Phrasing({"ja": 1.0}, {"ja": {"cup": "カップ"}})
    for text, word in (("the cup", "カップ"), ("the jug", "jug"), ("theatre", "theatre")):
        for seed in range(20):
            question = ask(row_of(target_of(1, [text])), np.random.default_rng(seed), 4, phrasing)[0].turns[0][0]
            assert question.startswith(word) and not question.startswith("the "), question


def test_own_english_answers_are_not_used_in_other_languages():
    target = target_of(1, answer="Surely {seg}.", explanation="It holds tea.")
    for seed in range(40):
        [(_, answer)] = ask(row_of(target), np.random.default_rng(seed), 4, Phrasing({"ja": 1.0}))[0].turns
        assert answer == "それは {seg} です。"


@pytest.mark.parametrize(
    "arguments",
    [
        ({"eo": 1.0},),
        ({"en": 0.0},),
        ({"en": "1"},),
        ({"en": float("inf")},),
        ({},),
        ({"en": 1.0}, {"xx": {}}),
    ],
)
def test_unknown_languages_and_invalid_shares_are_refused(arguments):
    with pytest.raises(ValueError, match="language"):
        Phrasing(*arguments)


@pytest.mark.parametrize("phrases", [["wall"], "wall", {"wall": 3}, {"wall": None}])
def test_translations_that_are_not_phrases_are_refused(phrases):
    with pytest.raises(ValueError, match="translations: ja must map phrases to phrases"):
        Phrasing({"ja": 1.0}, {"ja": phrases})
