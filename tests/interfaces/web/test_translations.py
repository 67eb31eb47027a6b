"""Texts of the page in both languages, and the choice of the language."""

import re

import pytest
from picture_files import ROOT

from gemma_lisa.interfaces.web.translations import LANGUAGES, WORDS, preferred


def test_both_languages_have_the_same_texts_and_placeholders():
    assert set(WORDS) == set(LANGUAGES)
    assert WORDS["en"].keys() == WORDS["ja"].keys()
    for key, english in WORDS["en"].items():
        slots = [sorted(re.findall(r"\{(\w+)", text)) for text in (english, WORDS["ja"][key])]
        assert slots[0] == slots[1], key
        assert WORDS["ja"][key] != english, f"{key} is not translated"


def test_every_text_is_used():
    folder = ROOT / "interfaces" / "web"
    files = [*folder.glob("*.py"), *folder.glob("*.js")]
    code = "".join(path.read_text() for path in files if path.name != "translations.py")
    for key in WORDS["en"]:
        assert re.search(rf"""["']{key}["']|words\.{key}\b""", code), key
    assert set(re.findall(r"\bstate\.words\.(\w+)", code)) <= WORDS["en"].keys()


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("ja,en-US;q=0.9", "ja"),
        ("ja-JP", "ja"),
        ("en-GB,ja;q=0.5", "en"),
        ("fr,ja;q=0.8,en;q=0.5", "ja"),
        ("fr", "en"),
        ("", "en"),
        (None, "en"),
        ("<script>", "en"),
    ],
)
def test_the_language_of_the_browser_is_preferred(header, language):
    assert preferred(header) == language
