"""Serve the page of a model until it is stopped; all that was uploaded is gone then."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported: nothing is sent anywhere
os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"  # events that Gradio remembers, and counts again after each

import gradio as gr
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from gemma_lisa.images_gemma_lisa import MAX_IMAGE_PIXELS_VARIABLE
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor

from .conversations import Conversations
from .folders import server_folder
from .gate import UPLOAD, Gate
from .page import CSS, build_page
from .uploads import MAX_FILE_SIZE, receive_upload

logger = logging.getLogger(__name__)

MAX_PIXELS = 25_000_000  # of a picture, unless the environment says otherwise
EXPIRY_EVERY = 5  # seconds
FONTS = ("system-ui", "sans-serif")  # the visitor's own, which have Japanese too


@asynccontextmanager
async def expiring(app: Starlette) -> AsyncIterator[None]:
    """While the server runs: what nobody uses any more is deleted from memory."""

    async def expire() -> None:
        while True:
            await asyncio.sleep(EXPIRY_EVERY)
            try:
                conversations = app.get_blocks().conversations
                conversations.uploads.expire()
                for key in conversations.expire():
                    app.state_holder.session_data.pop(key, None)  # Gradio's copy of what was shown last
            except Exception:  # whatever it is, the next round is not to fall away
                logger.exception("Deleting what nobody uses any more failed; it is tried again.")

    task = asyncio.create_task(expire())
    try:
        yield
    finally:
        task.cancel()


# How the page is launched, wherever it is
LAUNCH = {
    "app_kwargs": {
        "middleware": [Middleware(Gate)],
        "routes": [Route(UPLOAD, receive_upload, methods=["POST"])],  # in place of Gradio's, which writes to disk
        "lifespan": expiring,
    },
    "max_file_size": MAX_FILE_SIZE,
    # Gradio keeps what each session was shown last, which can be large, and does not need it
    "state_session_capacity": 8,
    "show_error": False,
    "prevent_thread_lock": True,
    "quiet": True,
    "theme": gr.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace")),
    "css": CSS,
    "footer_links": [],
    "ssr_mode": False,
    "enable_monitoring": False,
    # Else it asks itself for the page, and gives up where a busy machine takes three seconds over it
    "_frontend": False,
}


def serve(
    model: GemmaLisaForConditionalGeneration,
    processor: GemmaLisaProcessor,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
) -> None:
    """Returns once the process is told to stop.

    Args:
        model, processor: what answers.
        name: what the page calls it; None: the example, of which it says what it knows.
        host, port: where to; 0.0.0.0 is every network of the machine.
        share: also by a public address, through Gradio's servers.

    Raises:
        OSError: the port is taken.
    """
    os.environ.setdefault(MAX_IMAGE_PIXELS_VARIABLE, str(MAX_PIXELS))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with server_folder() as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        page = build_page(Conversations(model, processor), name)
        try:
            _, address, public = page.launch(server_name=host, server_port=port, share=share, **LAUNCH)
            print(f"The page is at {public or address} (Ctrl-C ends it)", flush=True)
            stop.wait()
        finally:
            page.close()
