"""Serve the page of a model until the process is stopped. No uploaded picture is kept after that."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported; nothing is sent
os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"  # Gradio keeps this many events and counts them after each event

import gradio as gr
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from gemma_lisa.images_gemma_lisa import MAX_IMAGE_PIXELS_VARIABLE
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor

from .cards import CARDS, Card
from .conversations import Conversations
from .folders import server_folder
from .gate import UPLOAD, Gate
from .page import CSS, build_page
from .uploads import MAX_FILE_SIZE, receive_upload

logger = logging.getLogger(__name__)

MAX_PIXELS = 25_000_000  # of a picture, unless the environment variable is set
EXPIRY_INTERVAL = 5  # seconds
FONTS = ("system-ui", "sans-serif")  # fonts of the user's system, which include Japanese


@asynccontextmanager
async def expiring(app: Starlette) -> AsyncIterator[None]:
    """Delete unused uploads and conversations from memory while the server runs."""

    async def expire() -> None:
        while True:
            await asyncio.sleep(EXPIRY_INTERVAL)
            try:
                conversations = app.get_blocks().conversations
                conversations.uploads.expire()
                for key in conversations.expire():
                    app.state_holder.session_data.pop(key, None)  # Gradio's copy of the last values
            except Exception:  # the loop must not end
                logger.exception("Expired data could not be deleted. Trying again in %d s.", EXPIRY_INTERVAL)

    task = asyncio.create_task(expire())
    try:
        yield
    finally:
        task.cancel()


# Options for gr.Blocks.launch, used by the server and by tests
LAUNCH = {
    "app_kwargs": {
        "middleware": [Middleware(Gate)],
        "routes": [Route(UPLOAD, receive_upload, methods=["POST"])],  # replaces Gradio's route, which writes to disk
        "lifespan": expiring,
    },
    "max_file_size": MAX_FILE_SIZE,
    # Gradio keeps the last values of each session, which can be large, and does not use them
    "state_session_capacity": 8,
    "show_error": False,
    "prevent_thread_lock": True,
    "quiet": True,
    "theme": gr.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace")),
    "css": CSS,
    "footer_links": [],
    "ssr_mode": False,
    "enable_monitoring": False,
    # Otherwise Gradio requests its own page and gives up if a busy machine takes longer than three seconds
    "_frontend": False,
}


def serve(
    model: GemmaLisaForConditionalGeneration,
    processor: GemmaLisaProcessor,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    cards: Sequence[Card] = CARDS,
) -> None:
    """Serve the page and return when the process is stopped.

    Args:
        model, processor: a Gemma-LISA.
        name: name of the model that the page shows; None for the example checkpoint.
        host, port: address of the server; 0.0.0.0 listens on all networks of the machine.
        share: also create a public URL through Gradio's servers.
        cards: example cards that the page shows.

    Raises:
        OSError: the port is in use.
    """
    os.environ.setdefault(MAX_IMAGE_PIXELS_VARIABLE, str(MAX_PIXELS))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with server_folder() as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        page = build_page(Conversations(model, processor), name, cards)
        try:
            _, address, public = page.launch(server_name=host, server_port=port, share=share, **LAUNCH)
            print(f"The page is at {public or address} (press Ctrl-C to stop)", flush=True)
            stop.wait()
        finally:
            page.close()
