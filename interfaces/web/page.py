"""The page: its layout, and the event of each button."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr

from .cards import CARDS, Card
from .conversations import Conversations
from .events import Events, guarded
from .parts import example_cards, head
from .translations import LANGUAGES, WORDS, preferred
from .uploads import MAX_FILE_SIZE

QUEUE_LENGTH = 64  # maximum number of events that wait for the model
HERE = Path(__file__).parent
CSS = (HERE / "page.css").read_text(encoding="utf-8")
VIEWER = """<div class="gl-frame"></div><div class="gl-tools" role="group" hidden></div>
<div class="gl-legend" role="group"></div><p class="gl-spoken" aria-live="polite"></p>"""
# Not Gradio's image component: it accepts paths and URLs from any client
UPLOAD = """<div class="gl-upload" role="group"><input type="file" accept="image/*" hidden>
<video muted playsinline hidden></video><div class="gl-buttons"></div><p class="gl-note" role="status"></p></div>"""
TURNS = '<div class="gl-turns" role="log" tabindex="-1"></div>'
MESSAGE = """<div class="gl-message" role="alert"><span></span><button type="button">×</button></div>"""
CHOOSE = """element.addEventListener('click', event => {
  const card = event.target.closest('[data-card]');
  if (!card) return;
  document.dispatchEvent(new CustomEvent('gemma-lisa-asked'));
  trigger('choose', { card: Number(card.dataset.card) });
});"""
# The events check their values themselves. Gradio's own checks would fill the log.
UNCHECKED = {"preprocess": False}
# Progress is shown by the page itself, in its language
OPTIONS = {"show_progress": "hidden"} | UNCHECKED
# Events that need the model run one at a time, in order of arrival
MODEL = {"concurrency_limit": 1, "concurrency_id": "model"} | OPTIONS
IMMEDIATE = {"queue": False} | OPTIONS
# Events that draw masks or make files. Drawing takes memory, so their number is limited
DRAWING = {"concurrency_limit": 2, "concurrency_id": "drawing"} | OPTIONS
# Values that only the browser knows: identifier of the upload; index of the shown answer, and its hidden masks
UPLOADED = "() => window.gemmaLisaUpload ?? null"
SHOWN = """(shown, hidden, language) =>
  [String(window.gemmaLisaShown ?? ''), (window.gemmaLisaHidden ?? []).join(), language]"""
# The button disappears, so the keyboard focus moves to the question
STOPPED = """language => {
  document.querySelector('#question textarea').focus({ preventScroll: true });
  return [language];
}"""
ASKED = """(question, language) => {
  document.dispatchEvent(new CustomEvent('gemma-lisa-asked'));
  return [question, language];
}"""


def build_page(conversations: Conversations, model: str | None = None, cards: Sequence[Card] = CARDS) -> gr.Blocks:
    """Return the page, ready to launch.

    Args:
        conversations: where conversations are kept.
        model: name of the model that the page shows; None for the example checkpoint.
        cards: example cards that the page shows.
    """
    with gr.Blocks(title=WORDS["en"]["title"], analytics_enabled=False, fill_width=True) as page:
        parts = _lay_out(model, cards)
        _connect_languages(page, parts, model, cards)
        _connect_buttons(parts, Events(conversations, cards))
    page.conversations = conversations  # the server's own routes find them here
    return page.queue(max_size=QUEUE_LENGTH, api_open=False)  # API clients must use the queue too


def _lay_out(model: str | None, cards: Sequence[Card]) -> SimpleNamespace:
    """Create the components of the page, in English, and return them by name."""
    words, parts = WORDS["en"], SimpleNamespace()
    with gr.Row(elem_id="top"):
        parts.title = gr.HTML(head("en", model))
        parts.language = gr.Radio(
            [(name, code) for code, name in LANGUAGES.items()],
            value="en",
            label=words["language"],
            show_label=False,
            container=False,
            elem_id="language",
        )
    parts.message = gr.HTML("", html_template=MESSAGE, js_on_load=script("message.js"), elem_id="message")
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            with gr.Column() as parts.start:
                parts.invitation = gr.HTML(paragraph(words["picture"]), elem_id="invitation")
                parts.upload = gr.HTML(
                    upload_value("en"), html_template=UPLOAD, js_on_load=script("upload.js"), elem_id="upload"
                )
                parts.examples = gr.HTML(example_cards("en", cards), js_on_load=CHOOSE, elem_id="examples")
            parts.viewer = gr.HTML(
                texts_value("en"), html_template=VIEWER, js_on_load=script("viewer.js"), elem_id="viewer"
            )
        with gr.Column(scale=2, min_width=320):
            parts.turns = gr.HTML(
                texts_value("en"), html_template=TURNS, js_on_load=script("turns.js"), elem_id="turns"
            )
            parts.question = gr.Textbox(
                label=words["question"], placeholder=words["placeholder"], max_lines=4, elem_id="question"
            )
            with gr.Row():
                parts.ask = gr.Button(words["ask"], variant="primary", elem_id="ask")
                parts.stop = gr.Button(words["stop"], visible=False, elem_id="stop")
            with gr.Column(visible=False) as parts.actions:
                with gr.Row():
                    parts.restart = gr.Button(words["new_conversation"], size="sm", min_width=120, elem_id="restart")
                    parts.close = gr.Button(words["other_picture"], size="sm", min_width=120, elem_id="close")
                with gr.Row():
                    parts.png = gr.Button(words["png"], size="sm", min_width=120, elem_id="png")
                    parts.json = gr.Button(words["json"], size="sm", min_width=120, elem_id="json")
    parts.privacy = gr.HTML(paragraph(words["privacy"]), elem_id="privacy")
    parts.identifier, parts.shown, parts.hidden = (gr.Textbox(visible=False) for _ in range(3))
    return parts


def _connect_languages(page: gr.Blocks, parts: SimpleNamespace, model: str | None, cards: Sequence[Card]) -> None:
    """Show the page in the language of the browser, and then in the language that the user chooses."""
    translated = [getattr(parts, name) for name in _texts("en", model, cards)]

    @guarded
    def translate(language: str | None) -> list:
        return list(_texts(language if language in WORDS else "en", model, cards).values())

    @guarded
    def load(request: gr.Request) -> list:
        return translate(preferred(request.headers.get("accept-language")))

    page.load(load, None, translated, **IMMEDIATE, api_name="load")
    parts.language.input(translate, parts.language, translated, **IMMEDIATE, api_name="translate")


def _texts(language: str, model: str | None, cards: Sequence[Card]) -> dict[str, Any]:
    """Return the text of each component in a language, by the component's name."""
    words = WORDS[language]
    return {
        "title": head(language, model),
        "language": gr.update(value=language, label=words["language"]),
        "invitation": paragraph(words["picture"]),
        "upload": upload_value(language),
        "viewer": texts_value(language),
        "turns": texts_value(language),
        "examples": example_cards(language, cards),
        "question": gr.update(label=words["question"], placeholder=words["placeholder"]),
        "ask": words["ask"],
        "stop": words["stop"],
        "restart": words["new_conversation"],
        "close": words["other_picture"],
        "png": words["png"],
        "json": words["json"],
        "privacy": paragraph(words["privacy"]),
    }


def _connect_buttons(parts: SimpleNamespace, events: Events) -> None:
    """Connect each button, and the events of viewer.js, turns.js and upload.js, to an event."""
    language, viewer, turns, message, question = (
        parts.language,
        parts.viewer,
        parts.turns,
        parts.message,
        parts.question,
    )
    opened = [viewer, turns, message, parts.actions, parts.start]
    received = parts.upload.receive(events.receive, parts.identifier, **IMMEDIATE, js=UPLOADED, api_name="receive")
    received.then(events.open, language, opened, **MODEL, api_name="open")
    parts.examples.choose(events.choose, language, [*opened, question, parts.stop], **MODEL)
    gr.on(
        [parts.ask.click, question.submit],
        events.ask,
        [question, language],
        [viewer, turns, message, question, parts.stop],
        **MODEL,
        js=ASKED,
        api_name="ask",
    )
    parts.stop.click(events.stop, language, message, **IMMEDIATE, js=STOPPED, api_name="stop")
    viewer.correct(events.correct, language, [viewer, message], **MODEL)
    viewer.undo(events.undo, language, [viewer, message], **MODEL)
    parts.restart.click(events.restart, language, [viewer, turns, message], **MODEL, api_name="restart")
    turns.show(events.show, language, [viewer, turns, message], **DRAWING)
    parts.close.click(events.close, None, opened, **IMMEDIATE)
    shown = [parts.shown, parts.hidden, language]
    parts.png.click(events.save_picture, shown, [viewer, message], **DRAWING, js=SHOWN, api_name="png")
    parts.json.click(events.save_json, language, [viewer, message], **DRAWING, api_name="json")


def script(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def paragraph(words: str) -> str:
    return f"<p>{words}</p>"


def texts_value(language: str) -> dict[str, Any]:
    """Return the value that sets the texts of viewer.js and turns.js."""
    return {"language": language, "words": WORDS[language]}


def upload_value(language: str) -> dict[str, Any]:
    """Return the value of upload.js."""
    return {"words": WORDS[language], "limit": MAX_FILE_SIZE}
