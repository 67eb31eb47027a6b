"""A conversation about a picture: answers, corrections, downloads, and limits of all conversations."""

import base64
import io
import json

import numpy as np
import pytest
from page_events import asked, happened, line_of, visitor
from picture_files import SCENE
from PIL import Image

from gemma_lisa.datasets_builder.rows import decode_mask
from gemma_lisa.interfaces.web import conversations, masks
from gemma_lisa.interfaces.web.conversations import Conversations, Refused, Turn
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
def test_masks_have_names(words, names):
    assert Turn("the question", {}, words, 0, []).names == names


def test_a_follow_up_keeps_what_was_said_and_a_new_conversation_forgets_it(talking):
    asked(talking, "the red circle")
    second = asked(talking, "all the blue triangles")[-1]
    assert [turn["question"] for turn in second[1]["turns"]] == ["the red circle", "all the blue triangles"]
    conversation = talking.conversations.of("a")
    assert len(conversation.session.messages) == 4
    shown = talking.show("en", visitor(), happened(turn=0))
    assert shown[0]["turn"] == 0 and shown[1]["shown"] == 0
    stage, talk, said = talking.forget("en", visitor())
    assert stage["masks"] == [] and talk["turns"] == [] and said == ""
    assert conversation.session.messages == [] and conversation.turns == []


def test_a_click_corrects_a_mask_and_undoing_brings_it_back(talking):
    asked(talking, "the red circle")
    conversation = talking.conversations.of("a")
    before = conversation.masks_of(conversation.turns[0])
    stage, said = talking.point("en", visitor(), happened(turn=0, mask=0, x=20.0, y=24.0, label=1))
    assert said == "" and stage["masks"][0]["points"] == [(20.0, 24.0, 1)]
    after = conversation.masks_of(conversation.turns[0])
    assert (after != before).any(), "the click changed nothing"
    talking.point("en", visitor(), happened(turn=0, mask=0, x=100.0, y=100.0, label=0))
    assert conversation.session.pointed_at[0].points == [(20.0, 24.0, 1), (100.0, 100.0, 0)]
    talking.undo("en", visitor())
    assert (conversation.masks_of(conversation.turns[0]) == after).all()
    stage, _ = talking.undo("en", visitor())
    assert (conversation.masks_of(conversation.turns[0]) == before).all()
    assert stage["masks"][0]["points"] == [] and conversation.session.pointed_at[0].points == []


def test_an_answer_without_masks_can_be_downloaded(talking):
    asked(talking, "the green square")
    conversation = talking.conversations.of("a")
    assert conversation.turns[0].words and not conversation.turns[0].masks
    assert talking.save_picture("", "", "en", visitor())[1] == ""


def test_files_are_made_on_download_only_and_layers_once(talking, monkeypatch):
    made = []
    for module, name in ((conversations, "record"), (conversations, "draw_overlay"), (masks, "mask_layer")):
        make = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, make=make, name=name: made.append(name) or make(*args))
    asked(talking, "all the blue triangles")
    talking.show("en", visitor(), happened(turn=0))
    assert made == ["mask_layer"] * 2
    talking.point("en", visitor(), happened(turn=0, mask=0, x=20.0, y=24.0, label=1))
    talking.undo("en", visitor())
    assert made == ["mask_layer"] * 3, "only the corrected mask is drawn anew"
    talking.save_json("en", visitor())
    talking.save_picture("", "", "en", visitor())
    assert made[3:] == ["record", "draw_overlay"]


def test_what_is_downloaded_is_the_answer(talking):
    assert line_of(talking.save_json("en", visitor())[1]) == WORDS["en"]["no_answer"]
    asked(talking, "all the blue triangles")
    stage, said = talking.save_json("en", visitor())
    assert said == "" and stage["file"]["name"] == "scene-answers.json"
    (told,) = json.loads(base64.b64decode(stage["file"]["base64"]))
    assert told["query"] == "all the blue triangles" and told["image"] == "scene.png"
    conversation = talking.conversations.of("a")
    for mask, one in zip(conversation.masks_of(conversation.turns[0]), told["masks"], strict=True):
        assert (decode_mask(one["rle"], "x") == mask).all()
        assert one["area"] == mask.sum() and set(one) >= {"rle", "box", "area", "score", "phrase"}

    pictures = []
    for hidden in ("", "0"):
        stage, _ = talking.save_picture("0", hidden, "en", visitor())
        with Image.open(io.BytesIO(base64.b64decode(stage["file"]["base64"]))) as opened:
            pictures.append(np.asarray(opened.convert("RGB")))
    assert pictures[0].shape[0] > 512, "no legend"
    assert (pictures[0][:512] != pictures[1][:512]).any(), "the hidden mask is drawn"


def test_the_conversation_that_was_silent_longest_makes_room(tiny):
    conversations = Conversations(*tiny, limit=2)
    for key in ("a", "b"):
        conversations.open(key, SCENE.read_bytes(), "scene.png")
    conversations.of("a")
    conversations.open("c", SCENE.read_bytes(), "scene.png")
    assert len(conversations) == 2
    with pytest.raises(Refused, match="expired"):
        conversations.of("b")
    assert conversations.expire() == []
    assert conversations.expire(silence=0) == ["a", "c"]
    with pytest.raises(Refused, match="expired"):
        conversations.of("a")
    with pytest.raises(Refused, match="no_picture"):
        conversations.of("d")


def test_pictures_of_all_conversations_are_limited_in_pixels(tiny, monkeypatch):
    monkeypatch.setattr(
        "gemma_lisa.interfaces.web.conversations.MAX_HELD_PIXELS", 40_000
    )  # two of 128 x 128, and not three
    conversations = Conversations(*tiny)
    for key in ("a", "b", "c"):
        conversations.open(key, SCENE.read_bytes(), "scene.png")
    assert len(conversations) == 2
    with pytest.raises(Refused, match="expired"):
        conversations.of("a")
    monkeypatch.setattr("gemma_lisa.interfaces.web.conversations.MAX_HELD_PIXELS", 1)
    conversations.open("d", SCENE.read_bytes(), "scene.png")
    assert conversations.of("d").session.image.width == 128


def test_a_conversation_has_a_limit_of_questions_clicks_and_masks(talking, monkeypatch):
    monkeypatch.setattr("gemma_lisa.interfaces.web.conversations.MAX_TURNS", 1)
    monkeypatch.setattr("gemma_lisa.interfaces.web.conversations.MAX_CORRECTIONS", 1)
    asked(talking, "the red circle")
    ((_, _, said, _, _),) = asked(talking, "the red circle")
    assert line_of(said) == WORDS["en"]["long_conversation"].format(limit=1)
    click = happened(turn=0, mask=0, x=20.0, y=24.0, label=1)
    assert talking.point("en", visitor(), click)[1] == ""
    assert line_of(talking.point("en", visitor(), click)[1]) == WORDS["en"]["many_clicks"].format(limit=1)
    talking.forget("en", visitor())
    monkeypatch.setattr("gemma_lisa.interfaces.web.conversations.MAX_MASK_PIXELS", 128 * 128)
    stage, talk, said, question, _ = asked(talking, "all the blue triangles")[-1]
    assert line_of(said) == WORDS["en"]["many_masks"].format(count=2)
    assert talk["turns"] == [] and question == "all the blue triangles"
    assert asked(talking, "the red circle")[-1][1]["turns"]
