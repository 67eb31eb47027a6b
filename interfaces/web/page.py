"""The page: what is where on it, and which event each button is."""

from pathlib import Path
from typing import Any

import gradio as gr

from .conversations import Conversations
from .events import Events, guarded
from .parts import examples, head
from .translations import LANGUAGES, WORDS, preferred, words_of
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
    events = Events(conversations)
    words = WORDS["en"]
    with gr.Blocks(title=words["title"], analytics_enabled=False, fill_width=True) as page:
        with gr.Row(elem_id="top"):
            title = gr.HTML(head("en", model))
            language = gr.Radio(
                [(name, code) for code, name in LANGUAGES.items()],
                value="en",
                label="Language",
                show_label=False,
                container=False,
                elem_id="language",
            )
        message = gr.HTML(js_on_load=DISMISS, elem_id="message")
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                with gr.Column() as start:
                    invitation = gr.HTML(paragraph(words["picture"]), elem_id="invitation")
                    upload = gr.HTML(
                        put_in("en"), html_template=PUT_IN, js_on_load=script("upload.js"), elem_id="upload"
                    )
                    scenes = gr.HTML(examples("en"), js_on_load=CHOOSE, elem_id="examples")
                stage = gr.HTML({"words": words}, html_template=FRAME, js_on_load=script("stage.js"), elem_id="stage")
            with gr.Column(scale=2, min_width=320):
                talk = gr.HTML({"words": words}, html_template=TALK, js_on_load=script("talk.js"), elem_id="talk")
                question = gr.Textbox(
                    label=words["question"], placeholder=words["placeholder"], max_lines=4, elem_id="question"
                )
                with gr.Row():
                    ask = gr.Button(words["ask"], variant="primary", elem_id="ask")
                    stop = gr.Button(words["stop"], visible=False, elem_id="stop")
                with gr.Column(visible=False) as conversation:
                    with gr.Row():
                        anew = gr.Button(words["new_conversation"], size="sm", min_width=120, elem_id="anew")
                        other = gr.Button(words["other_picture"], size="sm", min_width=120, elem_id="other")
                    with gr.Row():
                        png = gr.Button(words["png"], size="sm", min_width=120, elem_id="png")
                        as_json = gr.Button(words["json"], size="sm", min_width=120, elem_id="json")
        privacy = gr.HTML(paragraph(words["privacy"]), elem_id="privacy")
        number, shown, hidden = (gr.Textbox(visible=False) for _ in range(3))

        @guarded
        def speak(language: str | None) -> list:
            spoken = language if language in WORDS else "en"
            said = words_of(spoken)
            return [
                head(spoken, model),
                paragraph(said["picture"]),
                put_in(spoken),
                {"words": said},
                {"words": said},
                examples(spoken),
                gr.update(label=said["question"], placeholder=said["placeholder"]),
                *(said[name] for name in ("ask", "stop", "new_conversation", "other_picture", "png", "json")),
                paragraph(said["privacy"]),
            ]

        @guarded
        def greet(request: gr.Request) -> list:
            spoken = preferred(request.headers.get("accept-language"))
            return [spoken, *speak(spoken)]

        labelled = [
            title,
            invitation,
            upload,
            stage,
            talk,
            scenes,
            question,
            ask,
            stop,
            anew,
            other,
            png,
            as_json,
            privacy,
        ]
        page.load(greet, None, [language, *labelled], **AT_ONCE, api_name="greet")
        language.input(speak, language, labelled, **AT_ONCE, api_name="speak")

        begun = [stage, talk, message, conversation, start]
        received = upload.receive(events.receive, number, **AT_ONCE, js=UPLOADED, api_name="receive")
        received.then(events.open, language, begun, show_progress_on=[upload], **ONE_BY_ONE, api_name="open")
        scenes.choose(events.choose, language, [*begun, question], **ONE_BY_ONE)
        gr.on(
            [ask.click, question.submit],
            events.ask,
            [question, language],
            [stage, talk, message, question, stop],
            **ONE_BY_ONE,
            show_progress_on=[talk],
            api_name="ask",
        )
        stop.click(events.stop, language, message, **AT_ONCE, api_name="stop")
        stage.point(events.point, language, [stage, message], **UNSEEN)
        stage.undo(events.undo, language, [stage, message], **UNSEEN)
        anew.click(events.forget, language, [stage, talk, message], **ONE_BY_ONE, api_name="forget")
        talk.show(events.show, language, [stage, talk, message], **DRAWING)
        other.click(events.leave, None, [stage, talk, message, conversation, start], **AT_ONCE)
        png.click(events.save_picture, [shown, hidden, language], [stage, message], **DRAWING, js=SHOWN, api_name="png")
        as_json.click(events.save_json, language, [stage, message], **DRAWING, api_name="json")
    page.conversations = conversations  # where the server's own routes find them
    return page.queue(max_size=QUEUE_LENGTH, api_open=False)  # no event goes past the queue


def script(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def paragraph(words: str) -> str:
    return f"<p>{words}</p>"


def put_in(language: str) -> dict[str, Any]:
    """What upload.js draws with."""
    return {"words": WORDS[language], "limit": MAX_FILE_SIZE}
