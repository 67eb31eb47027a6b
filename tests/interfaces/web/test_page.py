"""The page as a whole, and its files in the package."""

import re
import tomllib

import gradio as gr
from picture_files import ROOT

from gemma_lisa.checkpoints.loading import EXAMPLE
from gemma_lisa.interfaces.web.cards import CARDS
from gemma_lisa.interfaces.web.conversations import Conversations
from gemma_lisa.interfaces.web.page import build_page

WEB = ROOT / "interfaces" / "web"


def test_the_page_contains_no_url_of_another_server(tiny):
    page = build_page(Conversations(*tiny))
    assert page.analytics_enabled is False
    sources = [path.read_text() for path in WEB.iterdir() if path.suffix in (".js", ".css", ".py")]
    assert not re.search(r"https?://(?!127\.0\.0\.1)", "".join(sources))


def test_the_package_contains_all_files_of_the_page():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "gemma_lisa.interfaces.web" in options["packages"]
    data = {path for glob in options["package-data"]["gemma_lisa.interfaces.web"] for path in WEB.glob(glob)}
    needed = {path for path in WEB.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert needed - data == {path for path in needed if path.suffix == ".py"}
    data = {path for glob in options["package-data"]["gemma_lisa"] for path in ROOT.glob(glob)}
    required = [*(ROOT / "examples" / EXAMPLE.name).iterdir(), *(card.path.resolve() for card in CARDS)]
    assert set(required) <= data | needed


def test_no_component_accepts_files(page):
    parts = [part for event in page.blocks.fns.values() for part in event.inputs]
    assert parts and {type(part) for part in parts} <= {gr.Textbox, gr.Radio}
