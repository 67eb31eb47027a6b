"""app.py as a server: invalid input, and twenty clients at once."""

import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from picture_files import REFUSED_FILES, ROOT, SCENE, taken_files
from served_app import SECONDS, left_in

from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.images_gemma_lisa import MAX_IMAGE_PIXELS_VARIABLE
from gemma_lisa.interfaces.web.cards import CARDS
from gemma_lisa.interfaces.web.conversations import Conversations
from gemma_lisa.interfaces.web.page import build_page
from gemma_lisa.interfaces.web.server import LAUNCH
from gemma_lisa.interfaces.web.translations import WORDS


@pytest.fixture(autouse=True)
def page_limit(monkeypatch):
    """Set the limit that the server sets when it starts."""
    monkeypatch.setenv(MAX_IMAGE_PIXELS_VARIABLE, "25000000")


@pytest.fixture(scope="module")
def example():
    return load_checkpoint(EXAMPLE)


def open_picture(client: Client, path: Path, language: str = "en") -> tuple:
    client.predict(handle_file(path), api_name="/receive")
    return client.predict(language, api_name="/open")


def client_of(address: str, folder: Path) -> Client:
    options = {"timeout": SECONDS}
    return Client(address, verbose=False, download_files=str(folder), analytics_enabled=False, httpx_kwargs=options)


@pytest.mark.slow
def test_twenty_clients_at_once_each_get_the_answer_to_their_own_question(server, example, tmp_path):
    address, _, folder = server
    colours, shapes = ("red", "blue", "green", "yellow", "purple"), ("circle", "square", "triangle", "shape")
    questions = [f"the {colour} {shape}" for colour in colours for shape in shapes]
    scenes = [card.path for card in CARDS]
    model, processor = example
    expected = []
    for number, question in enumerate(questions):
        answer = model.start(scenes[number % len(scenes)], processor).ask(question, max_new_tokens=128)
        expected.append((answer["raw_text"], [int(mask.sum()) for mask in answer["masks"]]))
    ready = threading.Barrier(len(questions))

    def run(number: int):
        client = client_of(address, tmp_path / str(number))
        ready.wait(SECONDS)
        open_picture(client, scenes[number % len(scenes)])
        turns = client.submit(questions[number], "en", api_name="/ask").result(SECONDS)[1]["turns"]
        (viewer, _) = client.predict("en", api_name="/json")
        (data,) = json.loads(base64.b64decode(viewer["file"]["base64"]))
        assert turns[0]["question"] == data["query"] == questions[number]
        return processor.seg_token.join(turns[0]["pieces"]), [mask["area"] for mask in data["masks"]]

    with ThreadPoolExecutor(len(questions)) as pool:
        found = list(pool.map(run, range(len(questions))))
    assert found == expected
    assert len({(text, *areas) for text, areas in expected}) > 5
    assert left_in(folder) == []


@pytest.mark.slow
def test_invalid_input_gives_a_message_and_the_server_still_works(server, tmp_path):
    address, process, folder = server
    client = client_of(address, tmp_path / "client")
    for name, (content, reason) in REFUSED_FILES.items():
        path = tmp_path / name
        path.write_bytes(content)
        message = open_picture(client, path)[2]
        assert reason in message, name
    for name, content in taken_files().items():
        (tmp_path / name).write_bytes(content)
        viewer, _, message, *_ = open_picture(client, tmp_path / name)
        assert message == "" and viewer["picture"]["width"] == 128, name
    assert "100,000" in client.predict("x" * 100_000, "en", api_name="/ask")[2]
    assert WORDS["ja"]["no_question"] in client.predict("", "ja", api_name="/ask")[2]
    sent = httpx.post(f"{address}gradio_api/upload", files={"files": ("large.png", bytes(25_000_000))}, timeout=SECONDS)
    assert sent.status_code == 413 and "maximum allowed size" in sent.text
    assert process.poll() is None
    assert client.predict("the red circle", "en", api_name="/ask")[1]["turns"]
    assert left_in(folder) == []


@pytest.mark.slow
def test_the_server_serves_no_file_of_its_machine(server):
    for path in (ROOT / "README.md", "README.md", "../README.md", ROOT / "interfaces" / "web" / "page.py"):
        assert httpx.get(f"{server[0]}gradio_api/file={path}", timeout=SECONDS).status_code in (403, 404), path


@pytest.mark.slow
def test_a_full_queue_gives_an_error_and_the_server_still_works(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr("gemma_lisa.interfaces.web.page.QUEUE_LENGTH", 2)
    page = build_page(Conversations(*tiny))
    _, address, _ = page.launch(server_name="127.0.0.1", **LAUNCH)
    try:
        clients = [client_of(address, tmp_path) for _ in range(12)]
        for client in clients[:2]:
            open_picture(client, SCENE)
        jobs = [client.submit("the red circle", "en", api_name="/ask") for client in clients]
        errors = [job.exception(SECONDS) for job in jobs]
        full = [str(error) for error in errors if error is not None]
        assert 0 < len(full) < len(jobs), errors
        assert all("try again" in error for error in full), full
        assert clients[0].predict("the red circle", "en", api_name="/ask")[1]["turns"]
    finally:
        page.close()
