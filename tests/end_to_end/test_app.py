"""app.py as a server: bad input, and twenty visitors at once."""

import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from picture_files import REFUSED_FILES, ROOT, SCENE, taken_files
from served_app import SECONDS, left_in, served_app

from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.images_gemma_lisa import MAX_IMAGE_PIXELS_VARIABLE
from gemma_lisa.interfaces.web.conversations import Conversations
from gemma_lisa.interfaces.web.page import build_page
from gemma_lisa.interfaces.web.parts import SCENES
from gemma_lisa.interfaces.web.server import LAUNCH
from gemma_lisa.interfaces.web.translations import WORDS


@pytest.fixture(autouse=True)
def page_limit(monkeypatch):
    """What the server sets for itself."""
    monkeypatch.setenv(MAX_IMAGE_PIXELS_VARIABLE, "25000000")


@pytest.fixture(scope="module")
def example():
    return load_checkpoint(EXAMPLE)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served_app(tmp_path_factory.mktemp("server")) as served:
        yield served


def bring(client: Client, path: Path, language: str = "en") -> tuple:
    client.predict(handle_file(path), api_name="/receive")
    return client.predict(language, api_name="/open")


def client_of(address: str, folder: Path) -> Client:
    options = {"timeout": SECONDS}
    return Client(address, verbose=False, download_files=str(folder), analytics_enabled=False, httpx_kwargs=options)


@pytest.mark.slow
def test_twenty_visitors_at_once_each_get_the_answer_to_their_own_question(server, example, tmp_path):
    address, _, folder = server
    colours, shapes = ("red", "blue", "green", "yellow", "purple"), ("circle", "square", "triangle", "shape")
    questions = [f"the {colour} {shape}" for colour in colours for shape in shapes]
    scenes = [path for path, _ in SCENES]
    model, processor = example
    expected = []
    for number, question in enumerate(questions):
        answer = model.start(scenes[number % len(scenes)], processor).ask(question, max_new_tokens=128)
        expected.append((answer["raw_text"], [int(mask.sum()) for mask in answer["masks"]]))
    ready = threading.Barrier(len(questions))

    def visit(number: int):
        client = client_of(address, tmp_path / str(number))
        ready.wait(SECONDS)
        bring(client, scenes[number % len(scenes)])
        said = client.submit(questions[number], "en", api_name="/ask").result(SECONDS)[1]
        (stage, _) = client.predict("en", api_name="/json")
        (told,) = json.loads(base64.b64decode(stage["file"]["base64"]))
        assert said["turns"][0]["question"] == told["query"] == questions[number]
        return processor.seg_token.join(said["turns"][0]["words"]), [mask["area"] for mask in told["masks"]]

    with ThreadPoolExecutor(len(questions)) as pool:
        found = list(pool.map(visit, range(len(questions))))
    assert found == expected
    assert len({(text, *areas) for text, areas in expected}) > 5
    assert left_in(folder) == []


@pytest.mark.slow
def test_bad_input_is_answered_by_the_server_which_lives_on(server, tmp_path):
    address, process, folder = server
    client = client_of(address, tmp_path / "client")
    for name, (content, reason) in REFUSED_FILES.items():
        path = tmp_path / name
        path.write_bytes(content)
        said = bring(client, path)[2]
        assert reason in said and "<img" not in said, name
    for name, content in taken_files().items():
        (tmp_path / name).write_bytes(content)
        stage, _, said, *_ = bring(client, tmp_path / name)
        assert said == "" and stage["picture"]["width"] == 128, name
    assert "100,000" in client.predict("x" * 100_000, "en", api_name="/ask")[2]
    assert WORDS["ja"]["no_question"] in client.predict("", "ja", api_name="/ask")[2]
    sent = httpx.post(f"{address}gradio_api/upload", files={"files": ("large.png", bytes(25_000_000))}, timeout=SECONDS)
    assert sent.status_code == 413 and "maximum allowed size" in sent.text
    assert process.poll() is None
    assert client.predict("the red circle", "en", api_name="/ask")[1]["turns"]
    assert left_in(folder) == []


@pytest.mark.slow
def test_the_server_hands_out_no_file_of_its_machine(server):
    for path in (ROOT / "README.md", "README.md", "../README.md", ROOT / "interfaces" / "web" / "page.py"):
        assert httpx.get(f"{server[0]}gradio_api/file={path}", timeout=SECONDS).status_code in (403, 404), path


@pytest.mark.slow
def test_a_full_queue_refuses_in_plain_words_and_goes_on(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr("gemma_lisa.interfaces.web.page.QUEUE_LENGTH", 2)
    page = build_page(Conversations(*tiny))
    _, address, _ = page.launch(server_name="127.0.0.1", **LAUNCH)
    try:
        clients = [client_of(address, tmp_path) for _ in range(12)]
        for client in clients[:2]:
            bring(client, SCENE)
        jobs = [client.submit("the red circle", "en", api_name="/ask") for client in clients]
        errors = [job.exception(SECONDS) for job in jobs]
        full = [str(error) for error in errors if error is not None]
        assert 0 < len(full) < len(jobs), errors
        assert all("try again" in error for error in full), full
        assert clients[0].predict("the red circle", "en", api_name="/ask")[1]["turns"]
    finally:
        page.close()
