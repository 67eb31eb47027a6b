"""Fixtures of the tests in a browser: a running app.py, Chromium, and a page that reports its errors."""

import os
import shutil
from pathlib import Path

import pytest
from page_browser import DESKTOP, open_app
from served_app import served_app

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


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served_app(tmp_path_factory.mktemp("server")) as served:
        yield served


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed; install Debian's package chromium")
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
    """Return a function that opens the page. At the end, no script has failed and no other server was contacted."""
    contexts, errors = [], []

    def open_page(size=DESKTOP, locale="en-US"):
        context = chromium.new_context(viewport=size, locale=locale, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(f"script: {error}"))
        page.on("console", lambda line: errors.append(f"console: {line.text}") if line.type == "error" else None)
        page.on(
            "request",
            lambda sent: None if sent.url.startswith((server[0], "data:", "blob:")) else errors.append(sent.url),
        )
        return open_app(page, server[0])

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
