"""bench_page.py asks a page that is served, as a browser does."""

import re

import pytest
from picture_files import SCENE

from gemma_lisa.benchmarks.bench_page import Visitor, first_words, one_visitor
from gemma_lisa.interfaces.web.conversations import Conversations
from gemma_lisa.interfaces.web.page import build_page
from gemma_lisa.interfaces.web.server import LAUNCH


@pytest.fixture
def address(tiny, monkeypatch):
    monkeypatch.setattr("gemma_lisa.interfaces.web.conversations.MAX_NEW_TOKENS", 4)
    page = build_page(Conversations(*tiny))
    _, address, _ = page.launch(server_name="127.0.0.1", **LAUNCH)
    yield address
    page.close()


def test_a_visitor_gets_the_answers_that_the_page_has_written_down(address):
    visitor = Visitor(address, "one")
    visitor.put_in(SCENE)
    times, _ = visitor.call("ask", "the red circle", "en")
    assert times == sorted(times) and times[0] > 0 and len(times) >= 3
    (told,) = visitor.answers()
    assert told["query"] == "the red circle" and told["image"] == "scene.png"


def test_an_event_that_the_page_does_not_have_is_an_error(address):
    with pytest.raises(KeyError):
        Visitor(address, "two").call("no_such_event")


def test_the_page_is_measured_beside_the_model_alone(address, tiny):
    model, processor = tiny
    session = model.start(SCENE, processor)
    assert first_words(session, "the red circle") > 0
    lines = one_visitor(address, session, turns=1)
    assert [line.split("|")[1].strip() for line in lines] == ["the model alone", "the page", "later by"]
    assert all(re.search(r"\| -?\d+\.\d{3} s \| -?\d+\.\d{3} s \|$", line) for line in lines)
