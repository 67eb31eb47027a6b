"""Steps of the tests in a browser."""

import io
import time
from contextlib import suppress
from pathlib import Path

from picture_files import SCENE
from PIL import Image
from served_app import SECONDS

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}


def open_app(page, address: str):
    """Open the page and wait until its buttons are there."""
    page.set_default_timeout(SECONDS * 1000)
    page.goto(address)
    page.wait_for_selector("#ask")
    page.wait_for_function("document.title && window.gemmaLisaWords")
    return page


def upload(page, file: Path | dict = SCENE) -> None:
    page.set_input_files("#upload input[type=file]", file)
    page.wait_for_selector(".gl-picture")


def ask(page, question: str, answers: int = 1) -> None:
    page.fill("#question textarea", question)
    page.click("#ask")
    wait_for_answers(page, answers)


def wait_for_answers(page, count: int = 1) -> None:
    page.wait_for_function(f"document.querySelectorAll('button.gl-answered').length == {count}")


def wait_for_message(page, text: str) -> None:
    page.wait_for_function("text => document.querySelector('.gl-message span').innerText.includes(text)", arg=text)


def press_until_opened(page, *buttons: str) -> None:
    """Press the first visible one of these buttons of the upload area until the picture is opened.

    The pauses give the camera time to start. The buttons are drawn again in the meantime.
    """
    from playwright.sync_api import TimeoutError

    until = time.monotonic() + SECONDS
    while page.locator(".gl-picture").count() == 0:
        assert time.monotonic() < until, f"no picture was opened by {buttons[-1]}"
        page.wait_for_timeout(2500)
        for button in buttons:
            if (found := page.locator(f"#upload [data-action={button}]")).is_visible():
                with suppress(TimeoutError):
                    found.click(timeout=5000)
                break


def visible_layers(page) -> int:
    return page.locator(".gl-layer:not(.gl-off)").count()


def colour_at(page, x: float, y: float) -> tuple[int, ...]:
    """Return the visible colour at a place of the picture, given as shares of width and height."""
    box = page.locator(".gl-frame").bounding_box()
    clip = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "width": 3, "height": 3}
    with Image.open(io.BytesIO(page.screenshot(clip=clip))) as image:
        return image.convert("RGB").getpixel((1, 1))


def focused(page) -> str:
    """Return the accessible name or the class of the element with the keyboard focus; "body" if there is none."""
    return page.evaluate(
        """(() => {
             const element = document.activeElement;
             if (!element || element === document.body) return 'body';
             return element.ariaLabel || element.innerText || element.placeholder || element.className;
           })()"""
    )


def tab_to(page, selector: str, limit: int = 40, key: str = "Tab") -> None:
    """Press Tab until the element has the focus."""
    for _ in range(limit):
        page.keyboard.press(key)
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} cannot be reached with {key}")
