"""What the page's buttons do, and what they say to bad input."""

import json
import logging
import re
from typing import Any

import gradio as gr
import pytest
from page_events import asked, happened, line_of, put_in, visitor
from page_requests import asked as asked_over_http
from page_requests import event_number, run, sent
from picture_files import REFUSED_FILES, SCENE, taken_files

from gemma_lisa.interfaces.web.conversations import MAX_QUESTION
from gemma_lisa.interfaces.web.translations import LANGUAGES, WORDS


@pytest.mark.parametrize("name", REFUSED_FILES)
def test_a_file_that_is_no_picture_is_refused_in_plain_words_and_the_page_goes_on(events, name):
    content, reason = REFUSED_FILES[name]
    changed = put_in(events, name, content)
    line = line_of(changed["message"])
    assert reason in line and "<img" not in line and "Traceback" not in line and "GEMMA" not in line
    assert len(events.conversations) == 0
    japanese = line_of(put_in(events, name, content, language="ja")["message"])
    assert re.search("[\u3040-\u30ff]", japanese)
    put_in(events, "scene.png", SCENE.read_bytes())
    assert len(events.conversations) == 1


@pytest.mark.parametrize("name", taken_files())
def test_every_kind_of_picture_is_taken(events, name):
    changed = put_in(events, name, taken_files()[name])
    assert changed["message"] == ""
    assert (changed["stage"]["picture"]["width"], changed["stage"]["picture"]["height"]) == (128, 128)


def test_a_picture_that_is_refused_leaves_the_one_before(talking):
    put_in(talking, "text.png", b"no picture")
    assert asked(talking, "the red circle")[-1][1]["turns"][0]["words"][0]


@pytest.mark.parametrize(
    ("question", "reason"),
    [("", "no_question"), ("  \n", "no_question"), ("x" * 100_000, "long_question"), ("x" * 501, "long_question")],
)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_question_that_cannot_be_asked_is_answered_in_plain_words(talking, question, reason, language):
    ((_, _, said, _, _),) = asked(talking, question, language)
    expected = WORDS[language][reason].format(length=len(question), limit=MAX_QUESTION)
    assert line_of(said) == expected and len(said) < 300
    assert asked(talking, "the red circle")[-1][1]["turns"]


def test_without_a_picture_every_button_says_so(events):
    request, line = visitor("nobody"), WORDS["en"]["no_picture"]
    happening = happened(turn=0, mask=0, x=1, y=1, label=1)
    said = [
        asked(events, "the red circle", key="nobody")[0][2],
        events.point("en", request, happening)[1],
        events.undo("en", request)[1],
        events.show("en", request, happening)[2],
        events.forget("en", request)[2],
        events.save_picture("", "", "en", request)[1],
        events.save_json("en", request)[1],
    ]
    assert [line_of(one) for one in said] == [line] * len(said)
    events.receive(None, request)
    for number in ("not/there.png", str(SCENE), "/etc/passwd", "https://example.com/x.png", ""):
        events.receive(number, request)
    assert line_of(events.open("en", request)[2]) == WORDS["en"]["lost"]


def test_clicks_and_numbers_that_mean_nothing_are_refused_in_plain_words(talking):
    asked(talking, "the red circle")
    for wrong in (
        dict(turn=0, mask=9, x=1, y=1, label=1),
        dict(turn=7, mask=0, x=1, y=1, label=1),
        dict(turn=-1, mask=0, x=1, y=1, label=1),
        dict(turn=0, mask=0, x=-5, y=1, label=1),
        dict(turn=0, mask=0, x=1, y=500, label=1),
        dict(turn=0, mask=0, x=1, y=1, label=7),
        dict(turn=0, mask=0, x=float("nan"), y=1, label=1),
    ):
        stage, said = talking.point("en", visitor(), happened(**wrong))
        assert line_of(said), wrong
    assert line_of(talking.save_picture("x", "", "en", visitor())[1])
    assert line_of(talking.save_picture("5", "", "en", visitor())[1])
    assert line_of(talking.undo("en", visitor())[1]) == WORDS["en"]["nothing_to_undo"]


def test_an_answer_comes_word_by_word_with_its_masks_and_equals_the_sessions(talking, example):
    steps = asked(talking, "all the blue triangles")
    model, processor = example
    whole = model.start(SCENE, processor).ask("all the blue triangles")
    spoken = [step[1]["turns"][-1]["words"] for step in steps]
    assert spoken[0] == [""] and len(spoken) > 5
    assert [len(words) for words in spoken] == sorted(len(words) for words in spoken)
    assert processor.seg_token.join(spoken[-1]) == whole["raw_text"]
    stages = [step[0] for step in steps if "turn" in step[0]]
    assert [len(stage["masks"]) for stage in stages] == [0, 1, 2, 2]
    assert [stage["whole"] for stage in stages] == [False, False, False, True]
    conversation = talking.conversations.of("a")
    assert (conversation.masks_of(conversation.turns[0]) == whole["masks"].numpy()).all()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_stopped_answer_was_never_asked_for(talking, language):
    (*_, expected) = asked(talking, "the red circle")
    for before in (0, 1):
        if not before:
            talking.forget(language, visitor())
        steps = talking.ask("all the blue triangles", language, visitor())
        assert next(steps)[-1] == gr.update(visible=True)
        while not (step := next(steps))[0].get("masks"):
            pass
        assert step[4] == gr.skip() and talking.stop(language, visitor()) == ""
        (stopped,) = steps
        stage, talk, message, question, button = stopped
        assert line_of(message) == WORDS[language]["stopped"] and question == "all the blue triangles"
        assert len(stage["masks"]) == before == len(talk["turns"]) and button == gr.update(visible=False)
        conversation = talking.conversations.of("a")
        assert len(conversation.session.messages) == 2 * before and len(conversation.session.pointed_at) == before
        if not before:
            again = asked(talking, "the red circle", language)[-1]
            assert again[0]["masks"] == expected[0]["masks"]
    assert len(asked(talking, "all the blue triangles")[-1][0]["masks"]) == 2


def test_an_answer_is_stopped_before_its_first_word_too(talking):
    steps = talking.ask("the red circle", "en", visitor())
    next(steps)
    talking.stop("en", visitor())
    (*_, stopped) = steps
    assert line_of(stopped[2]) == WORDS["en"]["stopped"] and talking.conversations.of("a").turns == []


def test_stopping_after_the_last_word_comes_too_late(talking):
    steps = talking.ask("the red circle", "en", visitor())
    conversation = talking.conversations.of("a")
    while not conversation.session.messages:
        next(steps)
    talking.stop("en", visitor())
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
def test_what_is_no_number_is_refused_in_plain_words(talking, values):
    asked(talking, "the red circle")
    assert line_of(talking.point("en", visitor(), gr.EventData(None, values))[1]) == WORDS["en"]["bad_event"]


@pytest.mark.parametrize("event", [None, {}, {"scene": -1}, {"scene": 99}, {"scene": "0"}, {"scene": 0.5}])
def test_a_drawing_that_there_is_not_is_refused_in_plain_words(events, event):
    changed = events.choose("en", visitor(), gr.EventData(None, event))
    assert line_of(changed[2]) == WORDS["en"]["bad_event"] and len(events.conversations) == 0


@pytest.mark.parametrize("shown", ["x", "1e3", "0x1", "0" * 5000, "²", "1;2", "--1"])
def test_a_list_of_masks_that_is_none_is_refused_in_plain_words(talking, shown):
    asked(talking, "the red circle")
    for values in ((shown, ""), ("0", shown)):
        assert line_of(talking.save_picture(*values, "en", visitor())[1]) == WORDS["en"]["bad_event"]


@pytest.mark.parametrize("name", ["ask", "stop", "point", "undo", "show", "forget", "png", "json"])
def test_of_an_unknown_fault_the_visitor_learns_only_that_there_was_one(page, name, monkeypatch, caplog):
    def fail(_: str) -> None:
        raise RuntimeError("secret of /srv/models/private.safetensors")

    monkeypatch.setattr(page.blocks.conversations, "of", fail)
    values = ["x"] * (len(page.blocks.fns[event_number(page, name)].inputs) - 1)
    for language in ("en", "ja"):
        with caplog.at_level(logging.ERROR):
            told = asked_over_http(page, name, *values, language, session="faults")
        assert not told["success"] and told["output"]["error"] == WORDS[language]["unknown"]
        assert "secret" not in json.dumps(told) and "/srv" not in json.dumps(told)
        assert "secret of /srv" in caplog.text, "the log does not have it"


def test_a_picture_that_fails_in_an_unknown_way_is_no_exception(page, monkeypatch):
    def fail(*_: Any) -> None:
        raise MemoryError("secret")

    monkeypatch.setattr(page.blocks.conversations, "open", fail)
    run(page, "receive", sent(page).json()[0], session="faults")
    told = asked_over_http(page, "open", "en", session="faults")
    assert not told["success"] and told["output"]["error"] == WORDS["en"]["unknown"]
