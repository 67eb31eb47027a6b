"""What the page says: all of it in both languages, and in that of the browser."""

import re

import pytest
from picture_files import ROOT

from gemma_lisa.interfaces.web.translations import LANGUAGES, WORDS, preferred


def test_both_languages_say_the_same_things():
    assert set(WORDS) == set(LANGUAGES)
    assert WORDS["en"].keys() == WORDS["ja"].keys()
    for key, english in WORDS["en"].items():
        slots = [sorted(re.findall(r"\{(\w+)", text)) for text in (english, WORDS["ja"][key])]
        assert slots[0] == slots[1], key
        assert WORDS["ja"][key] != english, f"{key} is not translated"


def test_every_word_is_used():
    folder = ROOT / "interfaces" / "web"
    files = [*folder.glob("*.py"), *folder.glob("*.js")]
    code = "".join(path.read_text() for path in files if path.name != "translations.py")
    for key in WORDS["en"]:
        assert re.search(rf"""["']{key}["']|words\.{key}\b""", code), key
    assert set(re.findall(r"\b(?:shown|told)\.words\.(\w+)", code)) <= WORDS["en"].keys()


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
def test_the_browsers_language_is_chosen(header, language):
    assert preferred(header) == language
