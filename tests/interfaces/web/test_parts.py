"""Data for the components of the page."""

import base64
from types import SimpleNamespace

import numpy as np
import pytest

from gemma_lisa.interfaces.web.cards import CARDS, Card
from gemma_lisa.interfaces.web.conversations import Turn
from gemma_lisa.interfaces.web.masks import KeptMask
from gemma_lisa.interfaces.web.parts import colours_of, example_cards, file_of, head, note_of, turns_of, viewer_of
from gemma_lisa.interfaces.web.translations import WORDS


def answered(question="the red circles", pieces=("They are ", " small circle and ", "."), complete=True) -> Turn:
    half = np.zeros((10, 20), dtype=bool)
    half[:, :10] = True
    masks = [KeptMask.pack(half, 0, 0.9, ((1.0, 2.0, 1),)), KeptMask.pack(~half, 1, 0.8)][: len(pieces) - 1]
    text = "".join(pieces)
    answer = {"text": text, "raw_text": "[SEG]".join(pieces), "complete": complete}
    return Turn(question, answer, list(pieces), 0, masks)


def test_the_viewer_gets_each_mask_with_its_name_score_layer_place_and_points():
    turn = answered()
    viewer = viewer_of(SimpleNamespace(turns=[turn]), 0)
    assert (viewer["turn"], viewer["whole"]) == (0, True)
    first, second = viewer["masks"]
    assert (first["name"], second["name"]) == ("small circle", "the red circles")
    assert (first["score"], first["points"], second["points"]) == (0.9, [(1.0, 2.0, 1)], [])
    assert first["layer"] == turn.masks[0].shown["layer"] != second["layer"]
    assert first["place"][0] < 0.5 < second["place"][0]
    assert first.items() >= colours_of(0).items() and second.items() >= colours_of(1).items()


def test_an_answer_that_is_being_written_is_not_whole():
    conversation, turn = SimpleNamespace(turns=[answered(complete=False)]), answered("and the squares?", ["No"])
    assert viewer_of(conversation, 1, turn) == {"turn": 1, "whole": False, "masks": []}
    turns = turns_of(conversation, 1, turn)
    assert turns["shown"] == 1
    assert [one["question"] for one in turns["turns"]] == ["the red circles", "and the squares?"]
    assert [one["whole"] for one in turns["turns"]] == [True, False]
    assert [one["note"] for one in turns["turns"]] == ["cut_off", ""]
    assert [len(one["colours"]) for one in turns["turns"]] == [2, 0]


def turn_with(text: str, scores=(), complete=True, is_empty=False) -> Turn:
    mask = np.full((4, 4), not is_empty)
    masks = [KeptMask.pack(mask, index, score) for index, score in enumerate(scores)]
    return Turn("?", {"text": text, "raw_text": text, "complete": complete}, [text, *["."] * len(masks)], 0, masks)


@pytest.mark.parametrize(
    ("turn", "note", "mask_notes"),
    [
        (turn_with("It is", (0.9,)), "", [""]),
        (turn_with("They are", (0.9, 0.2)), "low_confidence", ["", "mask_low_confidence"]),
        (turn_with("It is", (0.9,), is_empty=True), "nothing_found", ["mask_empty"]),
        (turn_with("No, there is none."), "not_there", []),
        (turn_with("2."), "no_mask", []),
        (turn_with("They are the", complete=False), "cut_off", []),
        (turn_with("It is is is is", (0.9,), complete=False), "repeats", [""]),
        (turn_with(""), "cut_off", []),
    ],
)
def test_uncertain_and_incomplete_answers_have_a_note(turn, note, mask_notes):
    assert note_of(turn) == note == turns_of(SimpleNamespace(turns=[turn]), 0)["turns"][0]["note"]
    masks = viewer_of(SimpleNamespace(turns=[turn]), 0)["masks"]
    assert [mask["note"] for mask in masks] == mask_notes
    for key in [note, *mask_notes]:
        assert key == "" or all(words[key] for words in WORDS.values())


def test_colours_are_in_css_notation_and_text_on_them_is_readable():
    assert colours_of(0) == {"colour": "#1e88ff", "ink": "#ffffff"}
    assert colours_of(6) == {"colour": "#ffda14", "ink": "#181c24"}
    assert colours_of(10) == colours_of(0)


def test_a_file_is_sent_unchanged():
    file = file_of("a.json", "application/json", b"\x00[]")["file"]
    assert (file["name"], file["type"]) == ("a.json", "application/json")
    assert base64.b64decode(file["base64"]) == b"\x00[]"


@pytest.mark.parametrize("language", WORDS)
def test_the_head_escapes_the_model_name_and_describes_the_example_checkpoint(language):
    assert WORDS[language]["note_example"] in head(language, None)
    named = head(language, "<b>mine</b>")
    assert "&lt;b&gt;mine" in named and "<b>" not in named and WORDS[language]["note_example"] not in named


def test_the_cards_are_plain_html():
    assert "<script" not in example_cards("en")
    assert all(card.question in example_cards("ja") for card in CARDS)
    own = example_cards("en", [Card(CARDS[0].path, "<b>the disc</b>")])
    assert "&lt;b&gt;the disc" in own and own.count("data-card") == 1
