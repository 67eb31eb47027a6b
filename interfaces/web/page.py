"""The page: what is where on it, and which event each button is."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr

from .conversations import Conversations
from .events import Events, guarded
from .parts import examples, head
from .translations import LANGUAGES, WORDS, preferred
from .uploads import MAX_FILE_SIZE

QUEUE_LENGTH = 64  # events that wait for the model; whoever comes then is told to try again
HERE = Path(__file__).parent
CSS = (HERE / "page.css").read_text(encoding="utf-8")
FRAME = '<div class="gl-frame"></div><div class="gl-tools" hidden></div><div class="gl-legend"></div>'
# No picture component of Gradio: such a one takes paths and addresses from whoever asks
PUT_IN = """<div class="gl-upload"><input type="file" accept="image/*" hidden><video muted playsinline hidden></video>
<div class="gl-buttons"></div><p class="gl-note" role="status"></p></div>"""
TALK = '<div class="gl-talk" role="log"></div>'
DISMISS = "element.addEventListener('click', () => { props.value = ''; });"
CHOOSE = """element.addEventListener('click', event => {
  const chosen = event.target.closest('[data-scene]');
  if (chosen) trigger('choose', { scene: Number(chosen.dataset.scene) });
});"""
AS_SENT = {"preprocess": False}  # the events check their values themselves; Gradio's own checks fill the log
# The events that need the model: one at a time, in the order of their coming
ONE_BY_ONE = {"concurrency_limit": 1, "concurrency_id": "model", "show_progress": "minimal"} | AS_SENT
AT_ONCE = {"queue": False, "show_progress": "hidden"} | AS_SENT
# Those that draw masks or write files, which takes memory: not for many visitors at the same time
DRAWING = {"concurrency_limit": 2, "concurrency_id": "drawing", "show_progress": "hidden"} | AS_SENT
# Quick, and the picture is being looked at: it is not to grow pale meanwhile
UNSEEN = ONE_BY_ONE | {"show_progress": "hidden"}
# What only the browser knows: the number of an upload; which answer is shown, and which of its masks are hidden
UPLOADED = "() => window.gemmaLisaUpload ?? null"
SHOWN = """(shown, hidden, language) =>
  [String(window.gemmaLisaShown ?? ''), (window.gemmaLisaHidden ?? []).join(), language]"""


def build_page(conversations: Conversations, model: str | None = None) -> gr.Blocks:
    """The page, not yet served; `model` is what the model is called there, None if it is that of examples/."""
    with gr.Blocks(title=WORDS["en"]["title"], analytics_enabled=False, fill_width=True) as page:
        parts = _lay_out(model)
        _connect_languages(page, parts, model)
        _connect_buttons(parts, Events(conversations))
    page.conversations = conversations  # where the server's own routes find them
    return page.queue(max_size=QUEUE_LENGTH, api_open=False)  # no event goes past the queue


def _lay_out(model: str | None) -> SimpleNamespace:
    """Make the parts of the page, in English; return them by name."""
    words, parts = WORDS["en"], SimpleNamespace()
    with gr.Row(elem_id="top"):
        parts.title = gr.HTML(head("en", model))
        parts.language = gr.Radio(
            [(name, code) for code, name in LANGUAGES.items()],
            value="en",
            label="Language",
            show_label=False,
            container=False,
            elem_id="language",
        )
    parts.message = gr.HTML(js_on_load=DISMISS, elem_id="message")
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            with gr.Column() as parts.start:
                parts.invitation = gr.HTML(paragraph(words["picture"]), elem_id="invitation")
                parts.upload = gr.HTML(
                    put_in("en"), html_template=PUT_IN, js_on_load=script("upload.js"), elem_id="upload"
                )
                parts.scenes = gr.HTML(examples("en"), js_on_load=CHOOSE, elem_id="examples")
            parts.stage = gr.HTML({"words": words}, html_template=FRAME, js_on_load=script("stage.js"), elem_id="stage")
        with gr.Column(scale=2, min_width=320):
            parts.talk = gr.HTML({"words": words}, html_template=TALK, js_on_load=script("talk.js"), elem_id="talk")
            parts.question = gr.Textbox(
                label=words["question"], placeholder=words["placeholder"], max_lines=4, elem_id="question"
            )
            with gr.Row():
                parts.ask = gr.Button(words["ask"], variant="primary", elem_id="ask")
                parts.stop = gr.Button(words["stop"], visible=False, elem_id="stop")
            with gr.Column(visible=False) as parts.conversation:
                with gr.Row():
                    parts.anew = gr.Button(words["new_conversation"], size="sm", min_width=120, elem_id="anew")
                    parts.other = gr.Button(words["other_picture"], size="sm", min_width=120, elem_id="other")
                with gr.Row():
                    parts.png = gr.Button(words["png"], size="sm", min_width=120, elem_id="png")
                    parts.json = gr.Button(words["json"], size="sm", min_width=120, elem_id="json")
    parts.privacy = gr.HTML(paragraph(words["privacy"]), elem_id="privacy")
    parts.number, parts.shown, parts.hidden = (gr.Textbox(visible=False) for _ in range(3))
    return parts


def _connect_languages(page: gr.Blocks, parts: SimpleNamespace, model: str | None) -> None:
    """Write the page in the language of the browser, and in the one that is chosen."""
    translated = [getattr(parts, name) for name in _texts("en", model)]

    @guarded
    def speak(language: str | None) -> list:
        return list(_texts(language if language in WORDS else "en", model).values())

    @guarded
    def greet(request: gr.Request) -> list:
        spoken = preferred(request.headers.get("accept-language"))
        return [spoken, *speak(spoken)]

    page.load(greet, None, [parts.language, *translated], **AT_ONCE, api_name="greet")
    parts.language.input(speak, parts.language, translated, **AT_ONCE, api_name="speak")


def _texts(language: str, model: str | None) -> dict[str, Any]:
    """What each part says in a language, by its name."""
    words = WORDS[language]
    return {
        "title": head(language, model),
        "invitation": paragraph(words["picture"]),
        "upload": put_in(language),
        "stage": {"words": words},
        "talk": {"words": words},
        "scenes": examples(language),
        "question": gr.update(label=words["question"], placeholder=words["placeholder"]),
        "ask": words["ask"],
        "stop": words["stop"],
        "anew": words["new_conversation"],
        "other": words["other_picture"],
        "png": words["png"],
        "json": words["json"],
        "privacy": paragraph(words["privacy"]),
    }


def _connect_buttons(parts: SimpleNamespace, events: Events) -> None:
    """Bind each button, and each event of stage and talk, to its event."""
    language, stage, talk, message, question = parts.language, parts.stage, parts.talk, parts.message, parts.question
    begun = [stage, talk, message, parts.conversation, parts.start]
    received = parts.upload.receive(events.receive, parts.number, **AT_ONCE, js=UPLOADED, api_name="receive")
    received.then(events.open, language, begun, show_progress_on=[parts.upload], **ONE_BY_ONE, api_name="open")
    parts.scenes.choose(events.choose, language, [*begun, question], **ONE_BY_ONE)
    gr.on(
        [parts.ask.click, question.submit],
        events.ask,
        [question, language],
        [stage, talk, message, question, parts.stop],
        **ONE_BY_ONE,
        show_progress_on=[talk],
        api_name="ask",
    )
    parts.stop.click(events.stop, language, message, **AT_ONCE, api_name="stop")
    stage.point(events.point, language, [stage, message], **UNSEEN)
    stage.undo(events.undo, language, [stage, message], **UNSEEN)
    parts.anew.click(events.forget, language, [stage, talk, message], **ONE_BY_ONE, api_name="forget")
    talk.show(events.show, language, [stage, talk, message], **DRAWING)
    parts.other.click(events.leave, None, begun, **AT_ONCE)
    shown = [parts.shown, parts.hidden, language]
    parts.png.click(events.save_picture, shown, [stage, message], **DRAWING, js=SHOWN, api_name="png")
    parts.json.click(events.save_json, language, [stage, message], **DRAWING, api_name="json")


def script(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def paragraph(words: str) -> str:
    return f"<p>{words}</p>"


def put_in(language: str) -> dict[str, Any]:
    """What upload.js draws with."""
    return {"words": WORDS[language], "limit": MAX_FILE_SIZE}
