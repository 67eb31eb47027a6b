"""bench_page.py: clients of a served page, and the latency of the page."""

import re

import pytest
from picture_files import SCENE

from gemma_lisa.benchmarks.bench_page import PageClient, measure_latency, time_to_first_text
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


def test_client_gets_the_answers_and_the_conversation_of_the_page(address):
    client = PageClient(address, "one")
    client.upload(SCENE)
    times, _ = client.call("ask", "the red circle", "en")
    assert times == sorted(times) and times[0] > 0 and len(times) >= 3
    (answer,) = client.answers()
    assert answer["query"] == "the red circle" and answer["image"] == "scene.png"


def test_unknown_event_is_an_error(address):
    with pytest.raises(KeyError):
        PageClient(address, "two").call("no_such_event")


def test_latency_is_measured_for_the_model_and_the_page(address, tiny):
    model, processor = tiny
    session = model.start(SCENE, processor)
    assert time_to_first_text(session, "the red circle") > 0
    lines = measure_latency(address, session, turns=1)
    assert [line.split("|")[1].strip() for line in lines] == ["model alone", "page", "difference"]
    assert all(re.search(r"\| -?\d+\.\d{3} s \| -?\d+\.\d{3} s \|$", line) for line in lines)
