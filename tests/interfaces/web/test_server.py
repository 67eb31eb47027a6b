"""The server of the page: what nobody uses any more is deleted."""

from typing import Any

from page_requests import open_picture, run, wait_for

from gemma_lisa.interfaces.web import server
from gemma_lisa.interfaces.web.server import LAUNCH


def test_the_expiry_survives_a_fault(page, monkeypatch):
    monkeypatch.setattr(server, "EXPIRY_EVERY", 0.05)
    conversations, turns = page.blocks.conversations, []

    def fail(*_: Any) -> None:
        turns.append(1)
        raise OSError("fault")

    with monkeypatch.context() as broken:
        broken.setattr(conversations.uploads, "expire", fail)
        wait_for(lambda: len(turns) > 2)
    open_picture(page, "later")
    conversations.of("later").used -= 3600
    wait_for(lambda: "later" not in conversations._conversations)


def test_many_sessions_leave_little_behind(page):
    for number in range(300):
        assert run(page, "leave", session=f"many{number}").status_code == 200
    assert len(page.blocks.app.state_holder.session_data) <= LAUNCH["state_session_capacity"]
    assert len(page.blocks.conversations) <= page.blocks.conversations.limit


def test_a_conversation_of_a_silent_visitor_is_gone_from_gradio_too(page):
    open_picture(page, "silent")
    assert "silent" in page.blocks.app.state_holder.session_data
    page.blocks.conversations.of("silent").used -= 3600
    wait_for(lambda: "silent" not in page.blocks.app.state_holder.session_data)
