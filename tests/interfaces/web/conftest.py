"""Fixtures of the page: its events, a session with a picture, and the page while it is served."""

import tempfile
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest
from page_requests import SECONDS
from picture_files import SCENE

from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.images_gemma_lisa import MAX_IMAGE_PIXELS_VARIABLE
from gemma_lisa.interfaces.web.conversations import Conversations
from gemma_lisa.interfaces.web.events import Events
from gemma_lisa.interfaces.web.page import build_page
from gemma_lisa.interfaces.web.server import LAUNCH


@pytest.fixture(autouse=True)
def page_limit(monkeypatch):
    """Set the limit that the server sets when it starts."""
    monkeypatch.setenv(MAX_IMAGE_PIXELS_VARIABLE, "25000000")


@pytest.fixture
def events(tiny):
    return Events(Conversations(*tiny))


@pytest.fixture(scope="module")
def example():
    return load_checkpoint(EXAMPLE)


@pytest.fixture
def opened(example):
    """Events of the example checkpoint, with the scene opened in session "a"."""
    events = Events(Conversations(*example))
    events.conversations.open("a", SCENE.read_bytes(), "scene.png")
    return events


@pytest.fixture(scope="module")
def page(tiny, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """Serve a page; yield its address, its API address, its blocks and an HTTP client. It must not write files."""
    folder = tmp_path_factory.mktemp("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        blocks = build_page(Conversations(*tiny))
        _, address, _ = blocks.launch(server_name="127.0.0.1", **LAUNCH)
        with httpx.Client(timeout=SECONDS) as client:
            yield SimpleNamespace(address=address, api=f"{address}gradio_api/", blocks=blocks, client=client)
        blocks.close()
    assert [path for path in folder.rglob("*") if path.is_file()] == [], "the page wrote files"
