"""Events of the page, as a session triggers them."""

import gradio as gr

from gemma_lisa.interfaces.web.events import Events

OPENED = ("viewer", "turns", "message", "actions", "start")  # components that `open` updates


def session(key: str = "a") -> gr.Request:
    return gr.Request(session_hash=key, headers={})


def event_data(**values) -> gr.EventData:
    return gr.EventData(None, values)


def upload(events: Events, name: str, content: bytes, key: str = "a", language: str = "en") -> dict:
    events.receive(events.conversations.uploads.add(content, name), session(key))
    return dict(zip(OPENED, events.open(language, session(key)), strict=True))


def ask(events: Events, question: str, language: str = "en", key: str = "a") -> list[tuple]:
    return list(events.ask(question, language, session(key)))
