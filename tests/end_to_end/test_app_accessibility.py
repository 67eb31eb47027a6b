"""app.py by keyboard and with a screen reader: focus, names, language and messages."""

import re

import pytest
from page_browser import (
    PHONE,
    ask,
    colour_at,
    focused,
    open_app,
    tab_to,
    upload,
    visible_layers,
    wait_for_answers,
    wait_for_message,
)
from picture_files import saved
from PIL import Image

from gemma_lisa.interfaces.web.cards import CARDS
from gemma_lisa.interfaces.web.translations import LANGUAGES, WORDS

ONE_CIRCLE = 2  # index of the card "the red circle", which has one mask


def wait_for_points(page, count: int) -> None:
    page.wait_for_function(f"document.querySelectorAll('.gl-dot').length == {count}")


@pytest.mark.slow
def test_a_mask_is_corrected_with_the_keyboard_alone_and_focus_is_never_lost(browse, screenshots):
    page, words = browse(), WORDS["en"]
    tab_to(page, f"[data-card='{ONE_CIRCLE}']")
    page.keyboard.press("Enter")
    wait_for_answers(page)
    page.wait_for_function("document.activeElement.matches('.gl-turns')")
    before = page.locator(".gl-layer").get_attribute("src")
    tab_to(page, ".gl-row[data-mask='0'] button", key="Shift+Tab")
    name = page.locator(".gl-name").inner_text()
    expected = words["correct_mask"].format(number=1, name=name)
    assert focused(page) == expected

    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.matches('.gl-frame')") and focused(page) == expected
    page.keyboard.press("ArrowRight")
    assert words["inside"] in page.locator(".gl-spoken").inner_text()
    x, y = map(int, re.findall(r"\d+", page.locator(".gl-spoken").inner_text()))
    page.keyboard.press("Shift+ArrowDown")
    assert page.locator(".gl-spoken").inner_text().startswith(f"x {x}, y {y + 1}, ")
    for _ in range(12):
        page.keyboard.press("ArrowLeft")
    assert words["outside"] in page.locator(".gl-spoken").inner_text()
    page.screenshot(path=screenshots / "15-keyboard.png")
    page.keyboard.press("Enter")
    wait_for_points(page, 1)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+Enter")
    wait_for_points(page, 2)
    assert page.locator(".gl-dot.gl-on").count() == page.locator(".gl-dot.gl-out").count() == 1
    assert page.locator(".gl-layer").get_attribute("src") != before
    assert page.evaluate("document.activeElement.matches('.gl-frame')")
    score = page.locator(".gl-score").inner_text().split()[-1]
    assert page.locator(".gl-spoken").inner_text() == words["corrected"].format(number=1, score=score)

    tab_to(page, "[data-key='undo']")
    page.keyboard.press("Enter")
    wait_for_points(page, 1)
    assert words["undo"] in focused(page)
    page.keyboard.press("Enter")
    wait_for_points(page, 0)
    assert page.evaluate("document.activeElement.matches('.gl-frame')"), "the button Undo has disappeared"
    assert page.locator(".gl-layer").get_attribute("src") == before
    page.keyboard.press("Escape")
    assert focused(page) == expected and page.locator(".gl-tools").is_hidden()


@pytest.mark.slow
def test_every_action_moves_the_focus_to_a_sensible_place(browse):
    page, words = browse(), WORDS["en"]
    page.focus("#upload button >> nth=0")
    upload(page)
    page.wait_for_function("document.activeElement.matches('#question textarea')")
    page.keyboard.type("the red circle")
    page.keyboard.press("Enter")
    wait_for_answers(page)
    assert page.evaluate("document.activeElement.matches('#question textarea')")
    tab_to(page, "button.gl-answered", key="Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_timeout(500)
    assert page.evaluate("document.activeElement.matches('button.gl-answered')")
    tab_to(page, ".gl-row input", key="Shift+Tab")
    page.keyboard.press("Space")
    assert visible_layers(page) == 0 and page.evaluate("document.activeElement.matches('.gl-row input')")
    tab_to(page, "#restart")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('.gl-said').length == 0")
    assert page.evaluate("document.activeElement.matches('#restart')")
    page.focus("#ask")
    page.keyboard.press("Enter")
    wait_for_message(page, words["no_question"])
    page.focus(".gl-message button")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.matches('#question textarea')")
    tab_to(page, "#close")
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.matches('#upload button')")
    assert focused(page) == words["choose_file"]


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["en-US", "ja-JP"])
def test_names_are_distinct_and_in_the_chosen_language(browse, locale):
    language = locale[:2]
    page, words = browse(locale=locale), WORDS[language]
    other = "en" if language == "ja" else "ja"
    page.click(f"#language label:has-text('{LANGUAGES[other]}')")
    page.wait_for_function(f"document.documentElement.lang == '{other}'")
    page.click(f"#language label:has-text('{LANGUAGES[language]}')")
    page.wait_for_function(f"document.documentElement.lang == '{language}'")
    assert page.title() == words["title"]
    for key in ("picture", "examples", "language"):
        page.get_by_role("group", name=words[key], exact=True).wait_for()
    page.click("[data-card='0']")
    wait_for_answers(page)
    page.get_by_role("log", name=words["conversation"], exact=True).wait_for()
    count = page.locator(".gl-row").count()
    title = words["one_mask"] if count == 1 else words["masks"].format(count=count)
    page.get_by_role("group", name=title, exact=True).wait_for()
    names = page.evaluate(
        "[...document.querySelectorAll('button, input')].filter(one => one.offsetParent).map(one => "
        "one.ariaLabel || one.innerText || one.parentElement.innerText)"
    )
    assert all(names) and len(set(names)) == len(names), names
    page.click(".gl-row[data-mask='0'] button")
    name = words["correct_mask"].format(number=1, name=page.locator(".gl-name").first.inner_text())
    for role in ("application", "group"):
        page.get_by_role(role, name=name, exact=True).wait_for()
    if language == "ja":
        shown = page.locator("body").inner_text()
        answers = " ".join(page.locator(".gl-turns, .gl-name").all_inner_texts())
        left = set(re.findall("[A-Za-z]{3,}", shown)) - set(re.findall("[A-Za-z]+", answers))
        assert left <= {"English", "PNG", "JSON", "Shift", "Enter", "Esc"}, left


@pytest.mark.slow
@pytest.mark.parametrize("size", [PHONE, {"width": 1280, "height": 900}], ids=["phone", "desktop"])
def test_a_message_does_not_cover_the_title_or_the_languages(browse, size):
    page = browse(size)
    page.click("#ask")
    wait_for_message(page, WORDS["en"]["no_picture"])
    line = page.locator(".gl-message").bounding_box()
    for part in ("h1", "#language"):
        box = page.locator(part).bounding_box()
        assert box["y"] + box["height"] <= line["y"], part
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    line = page.locator(".gl-message").bounding_box()
    assert 0 <= line["y"] and line["y"] + line["height"] <= size["height"]


@pytest.mark.slow
@pytest.mark.parametrize(("status", "key"), [(503, "busy"), (None, "no_connection"), (500, "unknown")])
def test_errors_of_gradio_are_shown_in_the_chosen_language(server, chromium, status, key):
    page = chromium.new_context(locale="ja-JP").new_page()
    open_app(page, server[0])
    upload(page)
    details = {"status": status, "json": {"detail": "Queue is full." if status == 503 else "secret"}}
    if status is None:
        page.route("**/gradio_api/**", lambda route: route.abort())
    else:
        page.route("**/queue/join*", lambda route: route.fulfill(**details))
    page.fill("#question textarea", "the red circle")
    page.click("#ask")
    wait_for_message(page, WORDS["ja"][key])
    assert page.locator(".gl-pending").count() == 0 and not page.locator(".toast-wrap").is_visible()
    page.unroute_all()
    if status is not None:  # without a connection, Gradio waits for the server and then reloads the page
        ask(page, "the red circle")
    page.context.close()


@pytest.mark.slow
def test_a_reload_asks_first_if_there_is_a_conversation(browse):
    page, dialogs = browse(), []

    def accept(dialog) -> None:
        dialogs.append(dialog.type)
        dialog.accept()

    page.on("dialog", accept)
    page.click("h1")
    page.reload()
    assert dialogs == []
    page.wait_for_selector(f"[data-card='{ONE_CIRCLE}']")
    page.click(f"[data-card='{ONE_CIRCLE}']")
    wait_for_answers(page)
    page.reload()
    assert dialogs == ["beforeunload"]


@pytest.mark.slow
def test_pictures_without_content_and_answers_without_objects_are_explained(browse):
    page, words = browse(), WORDS["en"]
    blank = {"name": "blank.png", "mimeType": "image/png", "buffer": saved(Image.new("RGBA", (64, 64), (0, 0, 0, 0)))}
    upload(page, blank)
    wait_for_message(page, words["blank_picture"])
    assert min(colour_at(page, 0.5, 0.5)) > 250, "a transparent picture is white"
    ask(page, "the red circle")
    assert page.locator(".gl-answered .gl-status").inner_text() in (
        words["not_there"],
        words["low_confidence"],
        words["nothing_found"],
    )
    page.click("#close")
    page.click(f"[data-card='{ONE_CIRCLE}']")
    page.wait_for_selector(".gl-legend h3")
    wait_for_answers(page)
    assert page.locator(".gl-asked").inner_text() == CARDS[ONE_CIRCLE].question
    assert page.locator(".gl-legend h3").inner_text() == words["one_mask"]
    assert page.locator(".gl-status").count() == 0
