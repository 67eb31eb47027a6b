"""app.py as a server: bad input, twenty at once, and a real browser."""

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from picture_files import REFUSED_FILES, ROOT, SCENE, taken_files
from PIL import Image

from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.images_gemma_lisa import MAX_IMAGE_PIXELS_VARIABLE
from gemma_lisa.interfaces.web.conversations import Conversations
from gemma_lisa.interfaces.web.page import build_page
from gemma_lisa.interfaces.web.parts import SCENES
from gemma_lisa.interfaces.web.server import LAUNCH
from gemma_lisa.interfaces.web.translations import LANGUAGES, WORDS
from gemma_lisa.session_gemma_lisa import ImageSession

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMIUM_OPTIONS = (
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",  # a camera that shows a disc
    "--use-fake-device-for-media-stream",
)
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
SECONDS = 90  # for anything: machines that run tests are busy


@pytest.fixture(autouse=True)
def page_limit(monkeypatch):
    """What the server sets for itself."""
    monkeypatch.setenv(MAX_IMAGE_PIXELS_VARIABLE, "25000000")


@pytest.fixture(scope="module")
def example():
    return load_checkpoint(EXAMPLE)


# ----------------------------------------------------------------------------------------------------------------------
# The server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """app.py as people start it: its address, its process, and the folder its temporary files lie in."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    environment = os.environ | {"TMPDIR": str(folder / "temporary"), "OMP_NUM_THREADS": "1"}
    environment.pop(MAX_IMAGE_PIXELS_VARIABLE, None)
    (folder / "temporary").mkdir()
    with log.open("w") as written:
        process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port), "--device", "cpu"],
            cwd=ROOT,
            env=environment,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    started = time.monotonic()
    while "The page is at" not in log.read_text():
        assert process.poll() is None and time.monotonic() - started < 300, log.read_text()
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/", process, folder / "temporary"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert "Traceback" not in log.read_text(), log.read_text()
    # Gradio makes empty folders of its own while it is imported
    left = [path for path in (folder / "temporary").rglob("*") if path.is_file() or path.name.startswith("gemma-lisa")]
    assert left == [], "the server left something behind"


def left_in(folder: Path) -> list[Path]:
    """The files that are there, but for the lock of the server's own folder: visitors' pictures are never written."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]


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
    for path in (ROOT / "README.md", "README.md", "../README.md", ROOT / "web" / "page.py"):
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


# ----------------------------------------------------------------------------------------------------------------------
# A browser


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium: install Debian's package of that name")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(CHROMIUM_OPTIONS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory):
    folder = os.environ.get("GEMMA_LISA_SCREENSHOTS")
    if folder is None:
        return tmp_path_factory.mktemp("screenshots")
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


@pytest.fixture
def browse(server, chromium):
    """Opens the page; at the end no script failed, and nothing was asked of any other server."""
    contexts, wrong = [], []

    def open_page(size=DESK, locale="en-US"):
        context = chromium.new_context(viewport=size, locale=locale, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        page.on("console", lambda line: wrong.append(f"console: {line.text}") if line.type == "error" else None)
        page.on(
            "request",
            lambda sent: None if sent.url.startswith((server[0], "data:", "blob:")) else wrong.append(sent.url),
        )
        page.goto(server[0])
        page.wait_for_selector("#ask")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def put_scene_in(page, path: Path | dict = SCENE) -> None:
    page.set_input_files("#upload input[type=file]", path)
    page.wait_for_selector(".gl-picture")


def ask_for(page, question: str, answers: int = 1) -> None:
    page.fill("#question textarea", question)
    page.click("#ask")
    page.wait_for_function(f"document.querySelectorAll('button.gl-answered').length == {answers}")


def bring_by_buttons(page, *buttons: str) -> None:
    """Press, of the upload's buttons, the first of these that is there, until a picture has come.

    Pauses are those of people: a camera starts, and the upload draws itself anew meanwhile.
    """
    from playwright.sync_api import TimeoutError

    until = time.monotonic() + SECONDS
    while page.locator(".gl-picture").count() == 0:
        assert time.monotonic() < until, f"no picture came by {buttons[-1]}"
        page.wait_for_timeout(2500)
        for button in buttons:
            if (found := page.locator(f"#upload {button}")).is_visible():
                with suppress(TimeoutError):
                    found.click(timeout=5000)
                break


def layers_seen(page) -> int:
    return page.locator(".gl-layer:not(.gl-off)").count()


def colour_at(page, x: float, y: float) -> tuple[int, ...]:
    """What is seen at a place of the picture, given as shares of width and height."""
    box = page.locator(".gl-frame").bounding_box()
    clip = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "width": 3, "height": 3}
    with Image.open(io.BytesIO(page.screenshot(clip=clip))) as opened:
        return opened.convert("RGB").getpixel((1, 1))


@pytest.mark.slow
def test_in_a_browser_two_masks_appear_are_hidden_followed_up_and_corrected(browse, screenshots):
    page = browse()
    page.screenshot(path=screenshots / "1-start.png")
    put_scene_in(page)
    ask_for(page, "all the blue triangles")
    page.wait_for_timeout(700)  # they fade in
    assert layers_seen(page) == 2 and page.locator(".gl-row").count() == 2
    page.screenshot(path=screenshots / "2-two-masks.png")

    # Hover names the mask under the pointer
    box = page.locator(".gl-number[data-mask='1']").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector(".gl-tip:not([hidden])")
    assert page.locator(".gl-tip").inner_text().startswith("2 ")
    page.screenshot(path=screenshots / "3-hover.png")
    page.mouse.move(5, 5)

    # Hiding one shows what is under it
    place = page.evaluate(
        "(() => { const n = document.querySelector('.gl-number[data-mask=\"1\"]'); return "
        "[parseFloat(n.style.left) / 100, parseFloat(n.style.top) / 100]; })()"
    )
    page.uncheck(".gl-row[data-mask='1'] input")
    page.wait_for_timeout(300)
    assert layers_seen(page) == 1
    blue = colour_at(page, *place)
    assert blue[2] > 180 and blue[0] < 100, blue
    with page.expect_download() as saved_picture:
        page.click("#png")
    with Image.open(saved_picture.value.path()) as opened:
        assert opened.width == 512 and opened.height > 512
    with page.expect_download() as saved_json:
        page.click("#json")
    (told,) = json.loads(Path(saved_json.value.path()).read_text())
    assert told["query"] == "all the blue triangles" and len(told["masks"]) == 2
    page.check(".gl-row[data-mask='1'] input")
    assert layers_seen(page) == 2

    # A follow-up
    ask_for(page, "the red circle", answers=2)
    assert page.locator(".gl-asked").all_inner_texts() == ["all the blue triangles", "the red circle"]
    page.screenshot(path=screenshots / "4-follow-up.png")
    page.click("button.gl-answered >> nth=0")
    page.wait_for_function("document.querySelectorAll('.gl-layer').length == 2")

    # Correct by click, and take it back
    before = page.locator(".gl-layer >> nth=0").get_attribute("src")
    page.click(".gl-row[data-mask='0'] button")
    box = page.locator(".gl-frame").bounding_box()
    page.mouse.click(box["x"] + 0.8 * box["width"], box["y"] + 0.65 * box["height"])
    page.wait_for_selector(".gl-dot")
    assert page.locator(".gl-layer >> nth=0").get_attribute("src") != before
    page.click(".gl-tools button >> nth=1")
    page.mouse.click(box["x"] + 0.15 * box["width"], box["y"] + 0.2 * box["height"])
    page.wait_for_function("document.querySelectorAll('.gl-dot').length == 2")
    page.screenshot(path=screenshots / "5-corrected.png")
    for left in (1, 0):
        page.click(".gl-tools button >> nth=2")
        page.wait_for_function(f"document.querySelectorAll('.gl-dot').length == {left}")
    assert page.locator(".gl-layer >> nth=0").get_attribute("src") == before

    page.click("#anew")
    page.wait_for_function("document.querySelectorAll('.gl-said, .gl-layer').length == 0")
    ask_for(page, "the green square")
    page.screenshot(path=screenshots / "6-not-there.png")
    page.click("#other")
    page.wait_for_selector("#upload input[type=file]", state="attached")
    assert page.locator(".gl-picture").count() == 0


@pytest.mark.slow
def test_in_a_browser_errors_are_plain_words_and_the_page_goes_on(browse, screenshots):
    page = browse()
    page.click("#ask")
    page.wait_for_selector("#message p")
    assert page.locator("#message").inner_text() == WORDS["en"]["no_picture"]
    page.click("#message")
    page.wait_for_selector("#message p", state="detached")
    page.click("#ask")
    page.wait_for_selector("#message p")
    for name in ("text.png", "empty.png", "truncated.png"):
        content = {"name": name, "mimeType": "image/png", "buffer": REFUSED_FILES[name][0]}
        page.set_input_files("#upload input[type=file]", content)
        page.wait_for_function(f"document.querySelector('#message').innerText.includes('{name}')")
        assert REFUSED_FILES[name][1] in page.locator("#message").inner_text()
        page.wait_for_timeout(300)
    page.screenshot(path=screenshots / "7-no-picture.png")
    put_scene_in(page, {"name": "huge.gif", "mimeType": "image/gif", "buffer": taken_files()["animated.gif"]})
    assert page.locator("#message p").count() == 0
    page.fill("#question textarea", "x" * 100_000)
    page.click("#ask")
    page.wait_for_function("document.querySelector('#message').innerText.includes('100,000')")
    page.screenshot(path=screenshots / "8-long-question.png")
    injection = "<img src=x onerror=\"document.title='broken'\"><b>the</b> <script>alert(1)</script> circle"
    ask_for(page, injection)
    assert page.locator(".gl-asked").inner_text() == injection
    assert page.locator(".gl-talk img, .gl-talk script, .gl-talk b").count() == 0
    assert page.title() == WORDS["en"]["title"]
    page.screenshot(path=screenshots / "9-injection.png")


@pytest.mark.slow
def test_a_picture_comes_from_the_camera_and_from_the_clipboard(server, chromium, screenshots):
    context = chromium.new_context(viewport=DESK, permissions=["camera", "clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(SECONDS * 1000)
    page.goto(server[0])
    page.wait_for_selector("#ask")
    camera = ("[aria-label='Capture photo']", "[aria-label='Capture from camera']")
    bring_by_buttons(page, *camera)
    page.wait_for_timeout(500)
    page.screenshot(path=screenshots / "14-camera.png")
    red, green, blue = colour_at(page, 0.05, 0.05)
    assert green > 2 * max(red, blue)  # behind the disc

    page.click("#other")
    page.wait_for_selector("#upload", state="visible")
    png = base64.b64encode(SCENE.read_bytes()).decode()
    page.evaluate(
        """async content => {
             const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
             const picture = new Blob([bytes], {type: 'image/png'});
             await navigator.clipboard.write([new ClipboardItem({'image/png': picture})]);
           }""",
        png,
    )
    bring_by_buttons(page, "[aria-label='Paste from clipboard']")
    ask_for(page, "all the blue triangles")
    assert layers_seen(page) == 2
    context.close()


@pytest.mark.slow
def test_an_answer_that_takes_long_is_stopped_in_a_browser(example, chromium, screenshots, monkeypatch):
    read = ImageSession._read
    with monkeypatch.context() as slowly:
        slowly.setattr(ImageSession, "_read", lambda self, ids: time.sleep(0.5) or read(self, ids))
        served = build_page(Conversations(*example))
        _, address, _ = served.launch(server_name="127.0.0.1", **LAUNCH)
        page = chromium.new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.goto(address)
        page.wait_for_selector("#ask")
        put_scene_in(page)
        assert not page.locator("#stop").is_visible()
        page.fill("#question textarea", "all the blue triangles")
        page.click("#ask")
        page.wait_for_selector("#stop", state="visible")
        page.screenshot(path=screenshots / "12-stop.png")
        page.click("#stop")
        page.wait_for_function(f"document.querySelector('#message').innerText.includes('{WORDS['en']['stopped']}')")
        page.wait_for_selector("#stop", state="hidden")
    assert page.input_value("#question textarea") == "all the blue triangles"
    assert layers_seen(page) == 0 and page.locator(".gl-asked").count() == 0
    page.screenshot(path=screenshots / "13-stopped.png")
    page.click("#ask")
    page.wait_for_selector("button.gl-answered")
    assert layers_seen(page) == 2
    page.close()
    served.close()


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["en-US", "ja-JP"])
def test_on_a_phone_the_page_is_readable_in_both_languages(browse, screenshots, locale):
    language = locale[:2]
    page = browse(PHONE, locale)
    words = WORDS[language]
    page.wait_for_function(f"document.querySelector('#ask').innerText.includes('{words['ask']}')")
    assert page.locator("h1").inner_text() == words["title"]
    page.click("#ask")
    page.wait_for_selector("#message p")
    line = page.locator("#message p").bounding_box()
    assert 0 <= line["y"] < PHONE["height"] and 0 <= line["x"] and line["x"] + line["width"] <= PHONE["width"]
    page.screenshot(path=screenshots / f"10-phone-error-{language}.png")
    page.click("#message")
    page.screenshot(path=screenshots / f"10-phone-start-{language}.png", full_page=True)
    page.click("[data-scene='1']")
    page.wait_for_selector(".gl-picture")
    assert page.input_value("#question textarea") == SCENES[1][1]
    page.click("#ask")
    page.wait_for_selector("button.gl-answered")
    page.click(".gl-row[data-mask='0'] button")
    page.wait_for_timeout(700)
    page.screenshot(path=screenshots / f"11-phone-answer-{language}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for part in page.locator("button:visible, .gl-frame, .gl-said, textarea:visible").all():
        box = part.bounding_box()
        assert box is None or (box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]), part
    other = "en" if language == "ja" else "ja"
    page.click(f"#language label:has-text('{LANGUAGES[other]}')")
    page.wait_for_function(f"document.querySelector('#ask').innerText.includes('{WORDS[other]['ask']}')")
    page.wait_for_function(f"document.querySelector('.gl-legend h3').innerText == '{WORDS[other]['masks']}'")


@pytest.mark.slow
def test_once_the_browser_is_closed_no_picture_is_left(browse, server):
    page = browse()
    put_scene_in(page)
    page.context.close()
    assert left_in(server[2]) == []
