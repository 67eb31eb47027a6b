"""app.py in Chromium, on a desktop and on a phone."""

import base64
import json
import time
from pathlib import Path

import pytest
from page_browser import (
    DESKTOP,
    PHONE,
    ask,
    colour_at,
    open_app,
    press_until_opened,
    upload,
    visible_layers,
    wait_for_answers,
    wait_for_message,
)
from picture_files import REFUSED_FILES, SCENE, taken_files
from PIL import Image
from served_app import left_in

from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.images_gemma_lisa import MAX_IMAGE_PIXELS_VARIABLE
from gemma_lisa.interfaces.web.cards import CARDS
from gemma_lisa.interfaces.web.conversations import Conversations
from gemma_lisa.interfaces.web.page import build_page
from gemma_lisa.interfaces.web.server import LAUNCH
from gemma_lisa.interfaces.web.translations import LANGUAGES, WORDS
from gemma_lisa.session_gemma_lisa import ImageSession


@pytest.fixture(autouse=True)
def page_limit(monkeypatch):
    """Set the limit that the server sets when it starts."""
    monkeypatch.setenv(MAX_IMAGE_PIXELS_VARIABLE, "25000000")


@pytest.fixture(scope="module")
def example():
    return load_checkpoint(EXAMPLE)


def hover_over_second_mask(page) -> None:
    box = page.locator(".gl-number[data-mask='1']").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector(".gl-tip:not([hidden])")


def hide_second_mask(page) -> None:
    """The picture below the mask is visible then."""
    place = page.evaluate(
        "(() => { const n = document.querySelector('.gl-number[data-mask=\"1\"]'); return "
        "[parseFloat(n.style.left) / 100, parseFloat(n.style.top) / 100]; })()"
    )
    page.uncheck(".gl-row[data-mask='1'] input")
    page.wait_for_timeout(300)
    assert visible_layers(page) == 1
    blue = colour_at(page, *place)
    assert blue[2] > 180 and blue[0] < 100, blue


def check_downloads(page) -> None:
    with page.expect_download() as saved_picture:
        page.click("#png")
    with Image.open(saved_picture.value.path()) as opened:
        assert opened.width == 512 and opened.height > 512
    with page.expect_download() as saved_json:
        page.click("#json")
    (data,) = json.loads(Path(saved_json.value.path()).read_text())
    assert data["query"] == "all the blue triangles" and len(data["masks"]) == 2


def correct_first_mask(page) -> None:
    """Click on a foreground point and on a background point."""
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
def test_masks_can_be_shown_hidden_downloaded_and_corrected(browse, screenshots):
    page = browse()
    page.screenshot(path=screenshots / "1-start.png")
    upload(page)
    ask(page, "all the blue triangles")
    page.wait_for_timeout(700)  # the masks fade in
    assert visible_layers(page) == 2 and page.locator(".gl-row").count() == 2
    page.screenshot(path=screenshots / "2-two-masks.png")

    hover_over_second_mask(page)
    assert page.locator(".gl-tip").inner_text().startswith("2 ")
    page.screenshot(path=screenshots / "3-hover.png")
    page.mouse.move(5, 5)

    hide_second_mask(page)
    check_downloads(page)
    page.check(".gl-row[data-mask='1'] input")
    assert visible_layers(page) == 2

    ask(page, "the red circle", answers=2)
    assert page.locator(".gl-asked").all_inner_texts() == ["all the blue triangles", "the red circle"]
    page.wait_for_timeout(700)
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

    page.click("#restart")
    page.wait_for_function("document.querySelectorAll('.gl-said, .gl-layer').length == 0")
    ask(page, "the yellow star")
    page.screenshot(path=screenshots / "6-not-there.png")
    page.click("#close")
    page.wait_for_selector("#upload input[type=file]", state="attached")
    assert page.locator(".gl-picture").count() == 0


@pytest.mark.slow
def test_errors_give_a_message_and_the_page_still_works(browse, screenshots):
    page = browse()
    page.click("#ask")
    page.wait_for_selector(".gl-message.gl-shown")
    assert page.locator(".gl-message span").inner_text() == WORDS["en"]["no_picture"]
    page.click(".gl-message button")
    page.wait_for_selector(".gl-message.gl-shown", state="detached")
    page.click("#ask")
    page.wait_for_selector(".gl-message.gl-shown")
    for name in ("text.png", "empty.png", "truncated.png", "<img src=x onerror=alert(1)>.png"):
        content = {"name": name, "mimeType": "image/png", "buffer": REFUSED_FILES[name][0]}
        page.set_input_files("#upload input[type=file]", content)
        wait_for_message(page, name)
        assert REFUSED_FILES[name][1] in page.locator("#message").inner_text()
        assert page.locator("#message img").count() == 0
        page.wait_for_timeout(300)
    page.screenshot(path=screenshots / "7-no-picture.png")
    upload(page, {"name": "huge.gif", "mimeType": "image/gif", "buffer": taken_files()["animated.gif"]})
    assert page.locator(".gl-message.gl-shown").count() == 0
    page.fill("#question textarea", "x" * 100_000)
    page.click("#ask")
    wait_for_message(page, "100,000")
    page.screenshot(path=screenshots / "8-long-question.png")
    injection = "<img src=x onerror=\"document.title='broken'\"><b>the</b> <script>alert(1)</script> circle"
    ask(page, injection)
    assert page.locator(".gl-asked").inner_text() == injection
    assert page.locator(".gl-turns img, .gl-turns script, .gl-turns b").count() == 0
    assert page.title() == WORDS["en"]["title"]
    page.screenshot(path=screenshots / "9-injection.png")


@pytest.mark.slow
def test_a_picture_can_come_from_the_camera_and_from_the_clipboard(server, chromium, screenshots):
    context = chromium.new_context(viewport=DESKTOP, permissions=["camera", "clipboard-read", "clipboard-write"])
    page = context.new_page()
    open_app(page, server[0])
    press_until_opened(page, "capture", "camera")
    page.wait_for_timeout(500)
    page.screenshot(path=screenshots / "14-camera.png")
    red, green, blue = colour_at(page, 0.05, 0.05)
    assert green > 2 * max(red, blue)  # the background of the disc

    page.click("#close")
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
    press_until_opened(page, "paste")
    ask(page, "all the blue triangles")
    assert visible_layers(page) == 2
    context.close()


@pytest.mark.slow
def test_a_long_answer_can_be_stopped(example, chromium, screenshots, monkeypatch):
    read = ImageSession._read
    with monkeypatch.context() as slow:
        slow.setattr(ImageSession, "_read", lambda self, ids: time.sleep(0.5) or read(self, ids))
        served = build_page(Conversations(*example))
        _, address, _ = served.launch(server_name="127.0.0.1", **LAUNCH)
        page = chromium.new_page()
        open_app(page, address)
        upload(page)
        assert not page.locator("#stop").is_visible()
        page.fill("#question textarea", "all the blue triangles")
        page.click("#ask")
        page.wait_for_selector("#stop", state="visible")
        page.screenshot(path=screenshots / "12-stop.png")
        page.click("#stop")
        wait_for_message(page, WORDS["en"]["stopped"])
        page.wait_for_selector("#stop", state="hidden")
    assert page.input_value("#question textarea") == "all the blue triangles"
    assert visible_layers(page) == 0 and page.locator(".gl-asked").count() == 0
    page.screenshot(path=screenshots / "13-stopped.png")
    page.click("#ask")
    page.wait_for_selector("button.gl-answered")
    assert visible_layers(page) == 2
    page.close()
    served.close()


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["en-US", "ja-JP"])
def test_the_page_fits_on_a_phone_in_both_languages(browse, screenshots, locale):
    language = locale[:2]
    page = browse(PHONE, locale)
    words = WORDS[language]
    page.wait_for_function(f"document.querySelector('#ask').innerText.includes('{words['ask']}')")
    assert page.locator("h1").inner_text() == words["title"]
    page.click("#ask")
    page.wait_for_selector(".gl-message.gl-shown")
    line = page.locator(".gl-message").bounding_box()
    assert 0 <= line["y"] < PHONE["height"] and 0 <= line["x"] and line["x"] + line["width"] <= PHONE["width"]
    page.screenshot(path=screenshots / f"10-phone-error-{language}.png")
    page.click(".gl-message button")
    page.screenshot(path=screenshots / f"10-phone-start-{language}.png", full_page=True)
    page.click("[data-card='2']")
    wait_for_answers(page)
    assert page.locator(".gl-asked").inner_text() == CARDS[2].question
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
    page.wait_for_function(f"document.querySelector('.gl-legend h3').innerText == '{WORDS[other]['one_mask']}'")


@pytest.mark.slow
def test_no_picture_is_left_after_the_browser_is_closed(browse, server):
    page = browse()
    upload(page)
    page.context.close()
    assert left_in(server[2]) == []
