"""Events of the page, and their messages for invalid input."""

import json
import logging
import re
from typing import Any

import gradio as gr
import pytest
from page_events import ask, event_data, session, upload
from page_requests import call, event_number, run
from page_requests import upload as upload_file
from picture_files import REFUSED_FILES, SCENE, saved, taken_files
from PIL import Image

from gemma_lisa.answers_gemma_lisa import FOUND, LOW_CONFIDENCE
from gemma_lisa.interfaces.web.cards import CARDS, Card
from gemma_lisa.interfaces.web.conversations import MAX_QUESTION, Conversations
from gemma_lisa.interfaces.web.events import Events
from gemma_lisa.interfaces.web.masks import KeptMask
from gemma_lisa.interfaces.web.translations import LANGUAGES, WORDS


@pytest.mark.parametrize("name", REFUSED_FILES)
def test_a_file_that_is_not_a_picture_gives_a_message_and_the_page_still_works(events, name):
    content, reason = REFUSED_FILES[name]
    changed = upload(events, name, content)
    line = changed["message"]
    assert reason in line and "Traceback" not in line and "GEMMA" not in line
    assert len(events.conversations) == 0
    japanese = upload(events, name, content, language="ja")["message"]
    assert re.search("[\u3040-\u30ff]", japanese)
    upload(events, "scene.png", SCENE.read_bytes())
    assert len(events.conversations) == 1


@pytest.mark.parametrize("name", taken_files())
def test_every_supported_kind_of_picture_is_opened(events, name):
    changed = upload(events, name, taken_files()[name])
    assert changed["message"] == ""
    assert (changed["viewer"]["picture"]["width"], changed["viewer"]["picture"]["height"]) == (128, 128)


@pytest.mark.parametrize("colour", [(255, 255, 255, 255), (0, 0, 0, 255), (10, 20, 30, 0)])
def test_a_picture_of_one_colour_is_opened_with_a_message(events, colour):
    picture = Image.new("RGBA", (40, 30), colour)
    changed = upload(events, "blank.png", saved(picture))
    assert changed["message"] == WORDS["en"]["blank_picture"] and changed["viewer"]["picture"]["width"] == 40
    picture.putpixel((3, 3), (200, 0, 0, 255))
    assert upload(events, "dot.png", saved(picture))["message"] == ""


def test_the_cards_of_the_page_can_be_those_of_the_model(tiny):
    card = Card(CARDS[0].path, "the crimson disc")
    updates = list(Events(Conversations(*tiny), [card]).choose("en", session(), event_data(card=0)))
    assert updates[-1][1]["turns"][0]["question"] == card.question
    (refused,) = Events(Conversations(*tiny), [card]).choose("en", session(), event_data(card=1))
    assert refused[2]


def test_a_card_opens_its_picture_and_asks_its_question(example):
    events = Events(Conversations(*example))
    updates = list(events.choose("en", session(), event_data(card=2)))
    viewer, _, message, actions, start, *_ = updates[0]
    assert viewer["picture"]["width"] == 480 and viewer["focus"] == "turns" and message == ""
    assert actions["visible"] and not start["visible"]
    assert updates[1][-1] == gr.update(visible=True), "the answer cannot be stopped"
    viewer, turns, *_, stop = updates[-1]
    assert turns["turns"][0]["question"] == CARDS[2].question and viewer["whole"] and viewer["masks"]
    assert stop == gr.update(visible=False)
    assert len(events.conversations.of("a").turns) == 1


def test_the_status_of_an_answer_follows_its_masks(opened):
    ask(opened, "the red circle")
    conversation = opened.conversations.of("a")
    assert conversation.turns[0].status == conversation.turns[0].answer["status"] == FOUND
    kept = conversation.turns[0].masks[0]
    conversation.turns[0].masks[0] = KeptMask.pack(kept.unpack(), 0, 0.1)
    assert conversation.turns[0].status == LOW_CONFIDENCE


def test_a_refused_picture_does_not_replace_the_previous_one(opened):
    upload(opened, "text.png", b"not a picture")
    assert ask(opened, "the red circle")[-1][1]["turns"][0]["pieces"][0]


@pytest.mark.parametrize(
    ("question", "reason"),
    [("", "no_question"), ("  \n", "no_question"), ("x" * 100_000, "long_question"), ("x" * 501, "long_question")],
)
@pytest.mark.parametrize("language", LANGUAGES)
def test_an_invalid_question_gives_a_message(opened, question, reason, language):
    ((_, _, message, _, _),) = ask(opened, question, language)
    expected = WORDS[language][reason].format(length=len(question), limit=MAX_QUESTION)
    assert message == expected and len(message) < 300
    assert ask(opened, "the red circle")[-1][1]["turns"]


def test_every_button_gives_a_message_if_there_is_no_picture(events):
    request, expected = session("nobody"), WORDS["en"]["no_picture"]
    point = event_data(turn=0, mask=0, x=1, y=1, label=1)
    messages = [
        ask(events, "the red circle", key="nobody")[0][2],
        events.correct("en", request, point)[1],
        events.undo("en", request)[1],
        events.show("en", request, point)[2],
        events.restart("en", request)[2],
        events.save_picture("", "", "en", request)[1],
        events.save_json("en", request)[1],
    ]
    assert messages == [expected] * len(messages)
    events.receive(None, request)
    for identifier in ("not/there.png", str(SCENE), "/etc/passwd", "https://example.com/x.png", ""):
        events.receive(identifier, request)
    assert events.open("en", request)[2] == WORDS["en"]["lost"]


def test_invalid_points_and_indices_give_a_message(opened):
    ask(opened, "the red circle")
    for wrong in (
        dict(turn=0, mask=9, x=1, y=1, label=1),
        dict(turn=7, mask=0, x=1, y=1, label=1),
        dict(turn=-1, mask=0, x=1, y=1, label=1),
        dict(turn=0, mask=0, x=-5, y=1, label=1),
        dict(turn=0, mask=0, x=1, y=500, label=1),
        dict(turn=0, mask=0, x=1, y=1, label=7),
        dict(turn=0, mask=0, x=float("nan"), y=1, label=1),
    ):
        assert opened.correct("en", session(), event_data(**wrong))[1], wrong
    assert opened.save_picture("x", "", "en", session())[1]
    assert opened.save_picture("5", "", "en", session())[1]
    assert opened.undo("en", session())[1] == WORDS["en"]["nothing_to_undo"]


def test_the_answer_is_streamed_with_its_masks_and_equals_that_of_the_session(opened, example):
    steps = ask(opened, "all the blue triangles")
    model, processor = example
    whole = model.start(SCENE, processor).ask("all the blue triangles")
    pieces = [step[1]["turns"][-1]["pieces"] for step in steps]
    assert pieces[0] == [""] and len(pieces) > 5
    assert [len(one) for one in pieces] == sorted(len(one) for one in pieces)
    assert processor.seg_token.join(pieces[-1]) == whole["raw_text"]
    viewers = [step[0] for step in steps if "turn" in step[0]]
    assert [len(viewer["masks"]) for viewer in viewers] == [0, 1, 2, 2]
    assert [viewer["whole"] for viewer in viewers] == [False, False, False, True]
    conversation = opened.conversations.of("a")
    assert (conversation.masks_of(conversation.turns[0]) == whole["masks"].numpy()).all()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_stopped_answer_is_not_added_to_the_conversation(opened, language):
    (*_, expected) = ask(opened, "the red circle")
    for before in (0, 1):
        if not before:
            opened.restart(language, session())
        steps = opened.ask("all the blue triangles", language, session())
        assert next(steps)[-1] == gr.update(visible=True)
        while not (step := next(steps))[0].get("masks"):
            pass
        assert step[4] == gr.skip() and opened.stop(language, session()) == ""
        (stopped,) = steps
        viewer, turns, message, question, button = stopped
        assert message == WORDS[language]["stopped"] and question == "all the blue triangles"
        assert len(viewer["masks"]) == before == len(turns["turns"]) and button == gr.update(visible=False)
        conversation = opened.conversations.of("a")
        assert len(conversation.session.messages) == 2 * before and len(conversation.session.masks) == before
        if not before:
            again = ask(opened, "the red circle", language)[-1]
            assert again[0]["masks"] == expected[0]["masks"]
    assert len(ask(opened, "all the blue triangles")[-1][0]["masks"]) == 2


def test_an_answer_can_be_stopped_before_its_first_token(opened):
    steps = opened.ask("the red circle", "en", session())
    next(steps)
    opened.stop("en", session())
    (*_, stopped) = steps
    assert stopped[2] == WORDS["en"]["stopped"] and opened.conversations.of("a").turns == []


def test_stopping_after_the_last_token_has_no_effect(opened):
    steps = opened.ask("the red circle", "en", session())
    conversation = opened.conversations.of("a")
    while not conversation.session.messages:
        next(steps)
    opened.stop("en", session())
    (*_, last) = steps
    assert last[-1] == gr.update(visible=False) and len(conversation.turns) == 1


@pytest.mark.parametrize(
    "values",
    [
        None,
        {},
        {"turn": "0", "mask": 0, "x": 1, "y": 1, "label": 1},
        {"turn": 0, "mask": [], "x": 1, "y": 1, "label": 1},
        {"turn": 0, "mask": 0, "x": {}, "y": 1, "label": 1},
        {"turn": 0, "mask": 0, "x": 1, "y": 10**400, "label": 1},
        {"turn": 0, "mask": 0, "x": 1, "y": 1, "label": 0.5},
        {"turn": True, "mask": 0, "x": 1, "y": 1, "label": 1},
        {"turn": 0, "mask": 0, "x": float("inf"), "y": 1, "label": 1},
    ],
)
def test_event_data_without_valid_numbers_gives_a_message(opened, values):
    ask(opened, "the red circle")
    assert opened.correct("en", session(), gr.EventData(None, values))[1] == WORDS["en"]["bad_event"]


@pytest.mark.parametrize("event", [None, {}, {"card": -1}, {"card": 99}, {"card": "0"}, {"card": 0.5}])
def test_an_unknown_card_gives_a_message(events, event):
    (changed,) = events.choose("en", session(), gr.EventData(None, event))
    assert changed[2] == WORDS["en"]["bad_event"] and len(events.conversations) == 0


@pytest.mark.parametrize("shown", ["x", "1e3", "0x1", "0" * 5000, "²", "1;2", "--1"])
def test_an_invalid_list_of_masks_gives_a_message(opened, shown):
    ask(opened, "the red circle")
    for values in ((shown, ""), ("0", shown)):
        assert opened.save_picture(*values, "en", session())[1] == WORDS["en"]["bad_event"]


@pytest.mark.parametrize("name", ["ask", "stop", "correct", "undo", "show", "restart", "png", "json"])
def test_an_unexpected_error_is_logged_and_its_details_are_not_shown(page, name, monkeypatch, caplog):
    def fail(_: str) -> None:
        raise RuntimeError("secret of /srv/models/private.safetensors")

    monkeypatch.setattr(page.blocks.conversations, "of", fail)
    values = ["x"] * (len(page.blocks.fns[event_number(page, name)].inputs) - 1)
    for language in ("en", "ja"):
        with caplog.at_level(logging.ERROR):
            data = call(page, name, *values, language, session="errors")
        assert not data["success"] and data["output"]["error"] == WORDS[language]["unknown"]
        assert "secret" not in json.dumps(data) and "/srv" not in json.dumps(data)
        assert "secret of /srv" in caplog.text, "the error is not logged"


def test_an_unexpected_error_while_opening_a_picture_is_not_shown_in_detail(page, monkeypatch):
    def fail(*_: Any) -> None:
        raise MemoryError("secret")

    monkeypatch.setattr(page.blocks.conversations, "open", fail)
    run(page, "receive", upload_file(page).json()[0], session="errors")
    data = call(page, "open", "en", session="errors")
    assert not data["success"] and data["output"]["error"] == WORDS["en"]["unknown"]
