"""app.py in a real browser, on a desk and on a phone."""

import base64
import io
import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest
from picture_files import REFUSED_FILES, SCENE, taken_files
from PIL import Image
from served_app import SECONDS, left_in, served_app

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


def hover_over_second_mask(page) -> None:
    box = page.locator(".gl-number[data-mask='1']").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector(".gl-tip:not([hidden])")


def hide_second_mask(page) -> None:
    """What is under the mask is seen then."""
    place = page.evaluate(
        "(() => { const n = document.querySelector('.gl-number[data-mask=\"1\"]'); return "
        "[parseFloat(n.style.left) / 100, parseFloat(n.style.top) / 100]; })()"
    )
    page.uncheck(".gl-row[data-mask='1'] input")
    page.wait_for_timeout(300)
    assert layers_seen(page) == 1
    blue = colour_at(page, *place)
    assert blue[2] > 180 and blue[0] < 100, blue


def check_downloads(page) -> None:
    with page.expect_download() as saved_picture:
        page.click("#png")
    with Image.open(saved_picture.value.path()) as opened:
        assert opened.width == 512 and opened.height > 512
    with page.expect_download() as saved_json:
        page.click("#json")
    (told,) = json.loads(Path(saved_json.value.path()).read_text())
    assert told["query"] == "all the blue triangles" and len(told["masks"]) == 2


def correct_first_mask(page) -> None:
    """A click on what is part of it, and one on what is not."""
    before = page.locator(".gl-layer >> nth=0").get_attribute("src")
    page.click(".gl-row[data-mask='0'] button")
    box = page.locator(".gl-frame").bounding_box()
    page.mouse.click(box["x"] + 0.8 * box["width"], box["y"] + 0.65 * box["height"])
    page.wait_for_selector(".gl-dot")
    assert page.locator(".gl-layer >> nth=0").get_attribute("src") != before
    page.click(".gl-tools button >> nth=1")
    page.mouse.click(box["x"] + 0.15 * box["width"], box["y"] + 0.2 * box["height"])
    page.wait_for_function("document.querySelectorAll('.gl-dot').length == 2")


@pytest.mark.slow
def test_in_a_browser_two_masks_appear_are_hidden_followed_up_and_corrected(browse, screenshots):
    page = browse()
    page.screenshot(path=screenshots / "1-start.png")
    put_scene_in(page)
    ask_for(page, "all the blue triangles")
    page.wait_for_timeout(700)  # they fade in
    assert layers_seen(page) == 2 and page.locator(".gl-row").count() == 2
    page.screenshot(path=screenshots / "2-two-masks.png")

    hover_over_second_mask(page)
    assert page.locator(".gl-tip").inner_text().startswith("2 ")
    page.screenshot(path=screenshots / "3-hover.png")
    page.mouse.move(5, 5)

    hide_second_mask(page)
    check_downloads(page)
    page.check(".gl-row[data-mask='1'] input")
    assert layers_seen(page) == 2

    ask_for(page, "the red circle", answers=2)
    assert page.locator(".gl-asked").all_inner_texts() == ["all the blue triangles", "the red circle"]
    page.screenshot(path=screenshots / "4-follow-up.png")
    page.click("button.gl-answered >> nth=0")
    page.wait_for_function("document.querySelectorAll('.gl-layer').length == 2")

    before = page.locator(".gl-layer >> nth=0").get_attribute("src")
    correct_first_mask(page)
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
