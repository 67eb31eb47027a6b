"""A visitor of the page: the events that its buttons are, and what they answer."""

import re

import gradio as gr

from gemma_lisa.interfaces.web.events import Events

UPLOAD = ("stage", "talk", "message", "conversation", "start")


def visitor(key: str = "a") -> gr.Request:
    return gr.Request(session_hash=key, headers={})


def happened(**values) -> gr.EventData:
    return gr.EventData(None, values)


def put_in(events: Events, name: str, content: bytes, key: str = "a", language: str = "en") -> dict:
    events.receive(events.conversations.uploads.add(content, name), visitor(key))
    return dict(zip(UPLOAD, events.open(language, visitor(key)), strict=True))


def line_of(html: str) -> str:
    (line,) = re.fullmatch('<p role="alert">(.*)</p>', html, re.S).groups()
    return line


def asked(events: Events, question: str, language: str = "en", key: str = "a") -> list[tuple]:
    return list(events.ask(question, language, visitor(key)))
