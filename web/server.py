"""Serve the page of a model until it is stopped; all that was uploaded is gone then."""

import os
import signal
import tempfile
import threading

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported: nothing is sent anywhere

import gradio as gr

from ..images_gemma_lisa import MAX_IMAGE_PIXELS_VARIABLE
from ..modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from ..processing_gemma_lisa import GemmaLisaProcessor
from .page import CSS, build_page
from .visits import Visits

MAX_PIXELS = 25_000_000  # of a picture, unless the environment says otherwise
MAX_FILE_SIZE = "20mb"
FONTS = ("system-ui", "sans-serif")  # the visitor's own, which have Japanese too
# How the page is launched, wherever it is
LAUNCH = {
    "max_file_size": MAX_FILE_SIZE,
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
    with tempfile.TemporaryDirectory(prefix="gemma-lisa-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # where uploads lie until they are read
        page = build_page(Visits(model, processor), name)
        try:
            _, address, public = page.launch(server_name=host, server_port=port, share=share, **LAUNCH)
            print(f"The page is at {public or address} (Ctrl-C ends it)", flush=True)
            stop.wait()
        finally:
            page.close()
