"""The server of the page deletes expired data."""

from typing import Any

from page_requests import open_picture, run, wait_for

from gemma_lisa.interfaces.web import server
from gemma_lisa.interfaces.web.server import LAUNCH


def test_deleting_expired_data_continues_after_an_error(page, monkeypatch):
    monkeypatch.setattr(server, "EXPIRY_INTERVAL", 0.05)
    conversations, attempts = page.blocks.conversations, []

    def fail(*_: Any) -> None:
        attempts.append(1)
        raise OSError("error")

    with monkeypatch.context() as broken:
        broken.setattr(conversations.uploads, "expire", fail)
        wait_for(lambda: len(attempts) > 2)
    open_picture(page, "later")
    conversations.of("later").used -= 3600
    wait_for(lambda: "later" not in conversations._conversations)


def test_gradio_keeps_the_data_of_few_sessions(page):
    for number in range(300):
        assert run(page, "close", session=f"many{number}").status_code == 200
    assert len(page.blocks.app.state_holder.session_data) <= LAUNCH["state_session_capacity"]
    assert len(page.blocks.conversations) <= page.blocks.conversations.limit


def test_gradio_deletes_the_data_of_an_expired_conversation(page):
    open_picture(page, "idle")
    assert "idle" in page.blocks.app.state_holder.session_data
    page.blocks.conversations.of("idle").used -= 3600
    wait_for(lambda: "idle" not in page.blocks.app.state_holder.session_data)
