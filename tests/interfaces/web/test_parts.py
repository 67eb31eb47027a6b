"""What the page's parts are given."""

import base64
from types import SimpleNamespace

import numpy as np
import pytest

from gemma_lisa.interfaces.web.conversations import Turn
from gemma_lisa.interfaces.web.masks import KeptMask
from gemma_lisa.interfaces.web.parts import SCENES, colours_of, examples, file_of, head, message, stage_of, talk_of
from gemma_lisa.interfaces.web.translations import WORDS


def answered(question: str = "the red circles", words=("They are ", " small circle and ", "."), complete=True) -> Turn:
    half = np.zeros((10, 20), dtype=bool)
    half[:, :10] = True
    masks = [KeptMask.pack(half, 0, 0.9, ((1.0, 2.0, 1),)), KeptMask.pack(~half, 1, 0.8)][: len(words) - 1]
    return Turn(question, {"complete": complete}, list(words), 0, masks)


def test_the_stage_is_given_each_mask_with_its_name_score_layer_place_and_clicks():
    turn = answered()
    stage = stage_of(SimpleNamespace(turns=[turn]), 0)
    assert (stage["turn"], stage["whole"]) == (0, True)
    first, second = stage["masks"]
    assert (first["name"], second["name"]) == ("small circle", "the red circles")
    assert (first["score"], first["points"], second["points"]) == (0.9, [(1.0, 2.0, 1)], [])
    assert first["layer"] == turn.masks[0].shown["layer"] != second["layer"]
    assert first["place"][0] < 0.5 < second["place"][0]
    assert first.items() >= colours_of(0).items() and second.items() >= colours_of(1).items()


def test_an_answer_that_is_still_being_written_is_not_whole():
    conversation, turn = SimpleNamespace(turns=[answered(complete=False)]), answered("and the squares?", ["No"])
    assert stage_of(conversation, 1, turn) == {"turn": 1, "whole": False, "masks": []}
    talk = talk_of(conversation, 1, turn)
    assert talk["shown"] == 1
    assert [one["question"] for one in talk["turns"]] == ["the red circles", "and the squares?"]
    assert [one["whole"] for one in talk["turns"]] == [True, False]
    assert [one["cut_off"] for one in talk["turns"]] == [True, False]
    assert [len(one["colours"]) for one in talk["turns"]] == [2, 0]


def test_colours_are_those_of_css_and_text_on_them_is_readable():
    assert colours_of(0) == {"colour": "#1e88ff", "ink": "#ffffff"}
    assert colours_of(6) == {"colour": "#ffda14", "ink": "#181c24"}
    assert colours_of(10) == colours_of(0)


def test_a_file_goes_to_the_browser_as_it_is():
    file = file_of("a.json", "application/json", b"\x00[]")["file"]
    assert (file["name"], file["type"]) == ("a.json", "application/json")
    assert base64.b64decode(file["base64"]) == b"\x00[]"


@pytest.mark.parametrize("language", WORDS)
def test_the_head_names_the_model_as_text_and_says_what_the_example_knows(language):
    assert WORDS[language]["note_example"] in head(language, None)
    named = head(language, "<b>mine</b>")
    assert "&lt;b&gt;mine" in named and "<b>" not in named and WORDS[language]["note_example"] not in named


def test_what_is_shown_in_a_message_is_text():
    assert "<b>" not in message("<b>x</b>")
    assert "<script" not in examples("en")
    assert all(path.is_file() for path, _ in SCENES)
