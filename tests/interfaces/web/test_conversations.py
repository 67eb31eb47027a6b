"""Conversations about pictures: answers, corrections, downloads and limits."""

import base64
import io
import json

import numpy as np
import pytest
from page_events import ask, event_data, session
from picture_files import SCENE
from PIL import Image

from gemma_lisa.datasets_builder.rows import decode_mask
from gemma_lisa.interfaces.web import conversations, masks
from gemma_lisa.interfaces.web.conversations import Conversations, Turn, UserError
from gemma_lisa.interfaces.web.translations import WORDS


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["It is ", "."], ["the question"]),
        (["They are ", " red circle, ", " star in blue."], ["red circle", "star in blue"]),
        (["They are ", " and ", "."], ["the question", "the question"]),
        (["The dog ", " and the cat ", "."], ["The dog", "the cat"]),
        (["", " left upper."], ["left upper"]),
        (["No, I see none."], []),
    ],
)
def test_each_mask_is_named_by_its_phrase_or_by_the_question(words, names):
    assert Turn("the question", {}, words, 0, []).names == names


def test_a_follow_up_question_keeps_the_conversation_and_a_restart_deletes_it(opened):
    ask(opened, "the red circle")
    second = ask(opened, "all the blue triangles")[-1]
    assert [turn["question"] for turn in second[1]["turns"]] == ["the red circle", "all the blue triangles"]
    conversation = opened.conversations.of("a")
    assert len(conversation.session.messages) == 4
    shown = opened.show("en", session(), event_data(turn=0))
    assert shown[0]["turn"] == 0 and shown[1]["shown"] == 0
    viewer, turns, message = opened.restart("en", session())
    assert viewer["masks"] == [] and turns["turns"] == [] and message == ""
    assert conversation.session.messages == [] and conversation.turns == []


def test_a_point_corrects_a_mask_and_undo_restores_it(opened):
    ask(opened, "the red circle")
    conversation = opened.conversations.of("a")
    before = conversation.masks_of(conversation.turns[0])
    viewer, message = opened.correct("en", session(), event_data(turn=0, mask=0, x=20.0, y=24.0, label=1))
    assert message == "" and viewer["masks"][0]["points"] == [(20.0, 24.0, 1)]
    after = conversation.masks_of(conversation.turns[0])
    assert (after != before).any(), "the point changed nothing"
    opened.correct("en", session(), event_data(turn=0, mask=0, x=100.0, y=100.0, label=0))
    assert conversation.session.masks[0].points == [(20.0, 24.0, 1), (100.0, 100.0, 0)]
    opened.undo("en", session())
    assert (conversation.masks_of(conversation.turns[0]) == after).all()
    viewer, _ = opened.undo("en", session())
    assert (conversation.masks_of(conversation.turns[0]) == before).all()
    assert viewer["masks"][0]["points"] == [] and conversation.session.masks[0].points == []


def test_an_answer_without_masks_can_be_downloaded(opened):
    ask(opened, "the yellow star")
    conversation = opened.conversations.of("a")
    assert conversation.turns[0].pieces and not conversation.turns[0].masks
    assert opened.save_picture("", "", "en", session())[1] == ""


def test_files_are_made_only_on_download_and_each_layer_once(opened, monkeypatch):
    made = []
    for module, name in ((conversations, "record"), (conversations, "draw_overlay"), (masks, "mask_layer")):
        make = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, make=make, name=name: made.append(name) or make(*args))
    ask(opened, "all the blue triangles")
    opened.show("en", session(), event_data(turn=0))
    assert made == ["mask_layer"] * 2
    opened.correct("en", session(), event_data(turn=0, mask=0, x=20.0, y=24.0, label=1))
    opened.undo("en", session())
    assert made == ["mask_layer"] * 3, "only the corrected mask is drawn again"
    opened.save_json("en", session())
    opened.save_picture("", "", "en", session())
    assert made[3:] == ["record", "draw_overlay"]


def test_the_downloaded_files_contain_the_answer(opened):
    assert opened.save_json("en", session())[1] == WORDS["en"]["no_answer"]
    ask(opened, "all the blue triangles")
    viewer, message = opened.save_json("en", session())
    assert message == "" and viewer["file"]["name"] == "scene-answers.json"
    (data,) = json.loads(base64.b64decode(viewer["file"]["base64"]))
    assert data["query"] == "all the blue triangles" and data["image"] == "scene.png"
    conversation = opened.conversations.of("a")
    for mask, one in zip(conversation.masks_of(conversation.turns[0]), data["masks"], strict=True):
        assert (decode_mask(one["rle"], "x") == mask).all()
        assert one["area"] == mask.sum() and set(one) >= {"rle", "box", "area", "score", "phrase"}

    pictures = []
    for hidden in ("", "0"):
        viewer, _ = opened.save_picture("0", hidden, "en", session())
        with Image.open(io.BytesIO(base64.b64decode(viewer["file"]["base64"]))) as image:
            pictures.append(np.asarray(image.convert("RGB")))
    assert pictures[0].shape[0] > 512, "there is no legend"
    assert (pictures[0][:512] != pictures[1][:512]).any(), "the hidden mask is drawn"


def test_the_conversation_that_was_idle_for_longest_is_deleted(tiny):
    conversations = Conversations(*tiny, limit=2)
    for key in ("a", "b"):
        conversations.open(key, SCENE.read_bytes(), "scene.png")
    conversations.of("a")
    conversations.open("c", SCENE.read_bytes(), "scene.png")
    assert len(conversations) == 2
    with pytest.raises(UserError, match="expired"):
        conversations.of("b")
    assert conversations.expire() == []
    assert conversations.expire(idle=0) == ["a", "c"]
    with pytest.raises(UserError, match="expired"):
        conversations.of("a")
    with pytest.raises(UserError, match="no_picture"):
        conversations.of("d")


def test_the_pixels_of_all_pictures_together_are_limited(tiny, monkeypatch):
    monkeypatch.setattr(
        "gemma_lisa.interfaces.web.conversations.MAX_HELD_PIXELS", 40_000
    )  # two pictures of 128 x 128 fit, three do not
    conversations = Conversations(*tiny)
    for key in ("a", "b", "c"):
        conversations.open(key, SCENE.read_bytes(), "scene.png")
    assert len(conversations) == 2
    with pytest.raises(UserError, match="expired"):
        conversations.of("a")
    monkeypatch.setattr("gemma_lisa.interfaces.web.conversations.MAX_HELD_PIXELS", 1)
    conversations.open("d", SCENE.read_bytes(), "scene.png")
    assert conversations.of("d").session.image.width == 128


def test_questions_corrections_and_masks_of_a_conversation_are_limited(opened, monkeypatch):
    monkeypatch.setattr("gemma_lisa.interfaces.web.conversations.MAX_TURNS", 1)
    monkeypatch.setattr("gemma_lisa.interfaces.web.conversations.MAX_CORRECTIONS", 1)
    ask(opened, "the red circle")
    ((_, _, message, _, _),) = ask(opened, "the red circle")
    assert message == WORDS["en"]["long_conversation"].format(limit=1)
    point = event_data(turn=0, mask=0, x=20.0, y=24.0, label=1)
    assert opened.correct("en", session(), point)[1] == ""
    assert opened.correct("en", session(), point)[1] == WORDS["en"]["many_clicks"].format(limit=1)
    opened.restart("en", session())
    monkeypatch.setattr("gemma_lisa.interfaces.web.conversations.MAX_MASK_PIXELS", 128 * 128)
    _, turns, message, question, _ = ask(opened, "all the blue triangles")[-1]
    assert message == WORDS["en"]["many_masks"].format(count=2)
    assert turns["turns"] == [] and question == "all the blue triangles"
    assert ask(opened, "the red circle")[-1][1]["turns"]
